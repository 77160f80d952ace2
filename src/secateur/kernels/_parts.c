/* Norms and scaling of groups spread over many tensors, and a look for NaN: one call each, every
   number read once, nothing allocated (cpu.py calls them).

   A part is the piece of some groups that lies in one tensor. In the order of memory its numbers are
   [outer][rows][groups][size]: those at [o][.][g][.] are in the group whose number is ids[o][g], or
   in none where that is below 0. Filters are groups x size; columns, such as input channels, are
   rows x groups x size; tiles of 4 x 4 are all four. `others`, unless 0, is another tensor in the
   same order, whose numbers they are multiplied with before they are squared. Sums are in double. */

#include <string.h>

#include "_compiled.h"

enum { FLOAT = 0, DOUBLE = 1, BFLOAT16 = 2, FLOAT16 = 3 }; /* the last one is only looked at */
enum { COLUMNS = 8192, LONG = 16, GAP = 32 };

typedef struct {
    int64_t values, type, outer, rows, groups, size, ids, others; /* addresses, too, are int64_t */
} Part;

static inline float from_bfloat16(uint16_t bits) {
    const uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

/* To the nearest, ties to even, as torch rounds; NaN stays NaN. */
static inline uint16_t to_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

#define SAME(x) (x)

/* Where a group's numbers lie in a row of their own, `run` adds up their squares. Otherwise rows are
   added to rows, a block of columns at a time in the cache, and the columns of a group in the end.
   VALUE(i) is the i-th number, alone or times the i-th of y. */
#define SQUARES(NAME, TYPE, VALUE)                                                                  \
    WIDE static double NAME##_run(const TYPE *x, const TYPE *y, int64_t count) {                    \
        double squares = 0;                                                                         \
        (void)y;                                                                                    \
        _Pragma("omp simd reduction(+ : squares)")                                                  \
        for (int64_t i = 0; i < count; i++) {                                                       \
            const double value = VALUE(i);                                                          \
            squares += value * value;                                                               \
        }                                                                                           \
        return squares;                                                                             \
    }                                                                                               \
    WIDE static void NAME##_columns(const TYPE *x, const TYPE *y, int64_t rows, int64_t stride,     \
                                    int64_t count, double *squares) {                               \
        const int64_t four = 4 * stride;                                                            \
        int64_t row = 0;                                                                            \
        for (int64_t i = 0; i < count; i++) squares[i] = 0;                                         \
        for (; row + 4 <= rows; row += 4, x += four, y += four)                                     \
            for (int64_t i = 0; i < count; i++) {                                                   \
                const double a = VALUE(i), b = VALUE(i + stride);                                   \
                const double c = VALUE(i + 2 * stride), d = VALUE(i + 3 * stride);                  \
                squares[i] += (a * a + b * b) + (c * c + d * d);                                    \
            }                                                                                       \
        for (; row < rows; row++, x += stride, y += stride)                                         \
            for (int64_t i = 0; i < count; i++) {                                                   \
                const double value = VALUE(i);                                                      \
                squares[i] += value * value;                                                        \
            }                                                                                       \
    }                                                                                               \
    static void NAME(const Part *part, double *total) {                                             \
        const TYPE *x = (const TYPE *)(intptr_t)part->values;                                       \
        const TYPE *y = (const TYPE *)(intptr_t)(part->others ? part->others : part->values);       \
        const int64_t *ids = (const int64_t *)(intptr_t)part->ids;                                  \
        const int64_t size = part->size, stride = part->groups * size;                              \
        const int64_t block = part->rows * stride;                                                  \
        for (int64_t o = 0; o < part->outer; o++, ids += part->groups, x += block, y += block) {    \
            if (part->rows == 1 && size >= LONG) {                                                  \
                for (int64_t g = 0; g < part->groups; g++)                                          \
                    if (ids[g] >= 0) total[ids[g]] += NAME##_run(x + g * size, y + g * size, size); \
                continue;                                                                           \
            }                                                                                       \
            int64_t group = 0, within = 0;                                                          \
            for (int64_t first = 0; first < stride; first += COLUMNS) {                             \
                const int64_t left = stride - first, count = left < COLUMNS ? left : COLUMNS;       \
                double squares[COLUMNS];                                                            \
                NAME##_columns(x + first, y + first, part->rows, stride, count, squares);           \
                for (int64_t i = 0; i < count; within = 0, group++) {                               \
                    const int64_t end = i + size - within < count ? i + size - within : count;      \
                    double sum = 0;                                                                 \
                    within += end - i;                                                              \
                    for (; i < end; i++) sum += squares[i];                                         \
                    if (ids[group] >= 0) total[ids[group]] += sum;                                  \
                    if (within < size) break;                                                       \
                }                                                                                   \
            }                                                                                       \
        }                                                                                           \
    }

#define ALONE(i) ((double)x[i])
#define ALONE_BFLOAT16(i) ((double)from_bfloat16(x[i]))
#define TIMES(i) ((double)x[i] * (double)y[i])
#define TIMES_BFLOAT16(i) (ALONE_BFLOAT16(i) * (double)from_bfloat16(y[i]))
SQUARES(squares_float, float, ALONE)
SQUARES(squares_double, double, ALONE)
SQUARES(squares_bfloat16, uint16_t, ALONE_BFLOAT16)
SQUARES(products_float, float, TIMES)
SQUARES(products_double, double, TIMES)
SQUARES(products_bfloat16, uint16_t, TIMES_BFLOAT16)

/* Add the squares of each part's numbers, or products, to their groups' entries of `total`. */
EXPORT void secateur_squares(int64_t count, const Part *parts, double *total) {
    for (const Part *part = parts; part < parts + count; part++) {
        const int times = part->others != 0;
        if (part->type == FLOAT) (times ? products_float : squares_float)(part, total);
        else if (part->type == DOUBLE) (times ? products_double : squares_double)(part, total);
        else (times ? products_bfloat16 : squares_bfloat16)(part, total);
    }
}

/* Factors are rounded to the tensor's own type first, as torch does. What has a factor of 1 is not
   written: in columns, no more than short gaps of it (the memory moves whole cache lines anyway). A
   factor of 0 makes zeros also of what is no number. */
#define SCALE(NAME, TYPE, READ, FACTOR, WRITE, ROUND)                                               \
    WIDE static void NAME##_run(TYPE *x, int64_t count, FACTOR factor) {                            \
        for (int64_t i = 0; i < count; i++)                                                         \
            x[i] = WRITE(factor == 0 ? 0 : READ(x[i]) * factor);                                    \
    }                                                                                               \
    WIDE static void NAME##_columns(TYPE *x, int64_t rows, int64_t stride, int64_t count,           \
                                    const FACTOR *factor) {                                         \
        for (int64_t row = 0; row < rows; row++, x += stride)                                       \
            for (int64_t i = 0; i < count; i++)                                                     \
                x[i] = WRITE(factor[i] == 0 ? 0 : READ(x[i]) * factor[i]);                          \
    }                                                                                               \
    static void NAME##_touched(TYPE *x, int64_t rows, int64_t stride, int64_t count,                \
                               const FACTOR *factor) {                                              \
        for (int64_t i = 0; i < count;) {                                                           \
            int64_t end = i, last = i; /* of the columns to write, from i on */                     \
            for (; last < count && last < end + GAP; last++)                                        \
                if (factor[last] != 1) end = last + 1;                                              \
            while (i < end && factor[i] == 1) i++;                                                  \
            if (i < end) NAME##_columns(x + i, rows, stride, end - i, factor + i);                  \
            i = last;                                                                               \
        }                                                                                           \
    }                                                                                               \
    static void NAME(const Part *part, const double *factors) {                                     \
        TYPE *x = (TYPE *)(intptr_t)part->values;                                                   \
        const int64_t *ids = (const int64_t *)(intptr_t)part->ids;                                  \
        const int64_t size = part->size, stride = part->groups * size;                              \
        for (int64_t o = 0; o < part->outer; o++, ids += part->groups, x += part->rows * stride) {  \
            if (part->rows == 1 && size >= LONG) {                                                  \
                for (int64_t g = 0; g < part->groups; g++) {                                        \
                    const FACTOR factor = ids[g] < 0 ? 1 : ROUND(factors[ids[g]]);                  \
                    if (factor != 1) NAME##_run(x + g * size, size, factor);                        \
                }                                                                                   \
                continue;                                                                           \
            }                                                                                       \
            int64_t group = 0, within = 0;                                                          \
            for (int64_t first = 0; first < stride; first += COLUMNS) {                             \
                const int64_t left = stride - first, count = left < COLUMNS ? left : COLUMNS;       \
                FACTOR factor[COLUMNS];                                                             \
                for (int64_t i = 0; i < count; within = 0, group++) {                               \
                    const int64_t end = i + size - within < count ? i + size - within : count;      \
                    const FACTOR mine = ids[group] < 0 ? 1 : ROUND(factors[ids[group]]);            \
                    within += end - i;                                                              \
                    for (; i < end; i++) factor[i] = mine;                                          \
                    if (within < size) break;                                                       \
                }                                                                                   \
                NAME##_touched(x + first, part->rows, stride, count, factor);                       \
            }                                                                                       \
        }                                                                                           \
    }

#define AS_FLOAT(x) ((float)(x))
#define AS_BFLOAT16(x) from_bfloat16(to_bfloat16((float)(x)))
SCALE(scale_float, float, SAME, float, SAME, AS_FLOAT)
SCALE(scale_double, double, SAME, double, SAME, SAME)
SCALE(scale_bfloat16, uint16_t, from_bfloat16, float, to_bfloat16, AS_BFLOAT16)

/* Multiply each part's numbers by their groups' factors. */
EXPORT void secateur_multiply(int64_t count, const Part *parts, const double *factors) {
    for (const Part *part = parts; part < parts + count; part++)
        if (part->type == FLOAT) scale_float(part, factors);
        else if (part->type == DOUBLE) scale_double(part, factors);
        else scale_bfloat16(part, factors);
}

/* A number is finite where not all bits of its exponent are set. Two halves at once: memory delivers
   two streams faster than one. */
#define FINITE(NAME, TYPE, EXPONENT)                                                                \
    WIDE static int NAME(const TYPE *bits, int64_t count) {                                         \
        const int64_t half = count / 2;                                                             \
        TYPE bad = 0, also = 0;                                                                     \
        for (int64_t i = 0; i < half; i++) {                                                        \
            bad |= (TYPE)((bits[i] & EXPONENT) == EXPONENT);                                        \
            also |= (TYPE)((bits[i + half] & EXPONENT) == EXPONENT);                                \
        }                                                                                           \
        return !bad && !also && (count % 2 == 0 || (bits[count - 1] & EXPONENT) != EXPONENT);       \
    }

FINITE(finite_float, uint32_t, 0x7f800000u)
FINITE(finite_double, uint64_t, 0x7ff0000000000000u)
FINITE(finite_bfloat16, uint16_t, 0x7f80u)
FINITE(finite_float16, uint16_t, 0x7c00u)

/* Whether all numbers, `size` of each part, are finite. */
EXPORT void secateur_finite(int64_t count, const Part *parts, int64_t *all) {
    *all = 1;
    for (const Part *part = parts; *all && part < parts + count; part++) {
        const void *bits = (const void *)(intptr_t)part->values;
        if (part->type == FLOAT) *all = finite_float(bits, part->size);
        else if (part->type == DOUBLE) *all = finite_double(bits, part->size);
        else if (part->type == BFLOAT16) *all = finite_bfloat16(bits, part->size);
        else *all = finite_float16(bits, part->size);
    }
}
