/* The scalar root and the passes around it, each in one sweep over memory (fused.py calls them).

   In: plain arrays, float or double. Out: what the last argument points to. C99, without Python's or
   torch's headers; all arithmetic is in double. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "_compiled.h"

enum { ABI = 3, LANES = 8, BLOCK = 1024, SHORT = 32, SAMPLE = 2048, SAMPLE_FROM = 16384 };
enum { FREE_PASSES = 10, MOST_PASSES = FREE_PASSES + 2 * 64 };

EXPORT int secateur_abi(void) { return ABI; }
EXPORT int secateur_most_passes(void) { return MOST_PASSES; }
EXPORT void *PyInit__fused(void) { return 0; } /* what some linkers ask an extension for */

/* sum_j cost_j clip(t |slope_j| - offset_j, 0, 1), n lines; a stride of 0 repeats one number. */
typedef struct {
    const void *slope;
    const double *offset, *cost;
    int64_t n, single, offset_stride, cost_stride; /* single: slopes are float, not double */
} Lines;

/* BLOCK lines at a time, in the cache, filled up with lines that spend nothing. */
typedef struct {
    double slope[BLOCK], offset[BLOCK], cost[BLOCK];
} Block;

typedef struct {
    double spent, rate; /* the function at t, and its slope on the linear piece around t */
} Point;

/* A compensated sum (Neumaier) over blocks. */
typedef struct {
    double sum, lost;
} Sum;

static void add(Sum *to, double part) {
    const double before = to->sum;
    to->sum = before + part;
    to->lost += fabs(before) >= fabs(part) ? (before - to->sum) + part : (part - to->sum) + before;
}

static double sum(Sum of) { return isfinite(of.lost) ? of.sum + of.lost : of.sum; }

WIDE static void fill(Block *block, const Lines *lines, int64_t start, int64_t count) {
    if (lines->single) {
        const float *slope = (const float *)lines->slope + start;
        for (int64_t i = 0; i < count; i++) block->slope[i] = fabs((double)slope[i]);
    } else {
        const double *slope = (const double *)lines->slope + start;
        for (int64_t i = 0; i < count; i++) block->slope[i] = fabs(slope[i]);
    }
    if (lines->offset_stride || start == 0)
        for (int64_t i = 0; i < BLOCK; i++)
            block->offset[i] = lines->offset[i < count ? (start + i) * lines->offset_stride : 0];
    if (lines->cost_stride || start == 0)
        for (int64_t i = 0; i < BLOCK; i++)
            block->cost[i] = lines->cost[i < count ? (start + i) * lines->cost_stride : 0];
    for (int64_t i = count; i < BLOCK; i++) block->slope[i] = 0;
}

WIDE static Point evaluate_block(const Block *block, double t) {
    double spent = 0, rate = 0;
#pragma omp simd reduction(+ : spent, rate)
    for (int i = 0; i < BLOCK; i++) {
        const double slope = block->slope[i], cost = block->cost[i];
        const double line = t * slope - block->offset[i];
        const double above = line < 0 ? 0 : line; /* NaN stays NaN */
        spent += cost * (above > 1 ? 1 : above);
        rate += line > 0 && line < 1 ? cost * slope : 0;
    }
    return (Point){spent, rate};
}

/* What the lines can spend (NaN where anything is NaN), and their rate were none clipped. */
WIDE static Point survey_block(const Block *block, double t) {
    double spent = 0, rate = 0;
    (void)t;
#pragma omp simd reduction(+ : spent, rate)
    for (int i = 0; i < BLOCK; i++) {
        const double slope = block->slope[i], cost = block->cost[i];
        spent += (slope > 0 ? cost : slope * cost) + 0 * block->offset[i];
        rate += slope <= DBL_MAX ? cost * slope : 0;
    }
    return (Point){spent, rate};
}

static Point swept(const Lines *lines, double t, Point (*sweep)(const Block *, double)) {
    Block block;
    Sum spent = {0, 0}, rate = {0, 0};
    for (int64_t start = 0; start < lines->n; start += BLOCK) {
        const int64_t left = lines->n - start;
        fill(&block, lines, start, left < BLOCK ? left : BLOCK);
        const Point part = sweep(&block, t);
        add(&spent, part.spent);
        add(&rate, part.rate);
    }
    return (Point){sum(spent), sum(rate)};
}

static Point evaluate(const Lines *lines, double t) { return swept(lines, t, evaluate_block); }
static Point survey(const Lines *lines) { return swept(lines, 0, survey_block); }

static double between(double low, double high) {
    /* Positive doubles are ordered like their bits: this halves how many lie in the bracket. */
    uint64_t a, b;
    memcpy(&a, &low, sizeof a);
    memcpy(&b, &high, sizeof b);
    a += (b - a) / 2;
    memcpy(&low, &a, sizeof a);
    return low;
}

/* Newton's method inside a bracket. A step solves the linear piece it stands on, so that the last
   one is exact to rounding. The function is neither convex nor concave, so steps may cycle: after
   FREE_PASSES, every other one halves the number of doubles in the bracket instead, of which there
   are less than 2^63. No input takes more than MOST_PASSES, each linear in n. */
static double newton(const Lines *lines, double level, double t, int32_t *passes) {
    double low = 0, high = DBL_MAX;
    for (int pass = 1; pass <= MOST_PASSES; pass++) {
        if (!(t > low && t < high)) t = between(low, high);
        const Point at = evaluate(lines, t);
        *passes = pass;
        if (isnan(at.spent)) return NAN;
        const double step = at.rate > 0 ? t + (level - at.spent) / at.rate : NAN;
        if (at.spent <= level) low = t;
        else high = t;
        const int met = fabs(at.spent - level) <= 8 * DBL_EPSILON * (level + t * at.rate);
        if (met || fabs(step - t) <= 4 * DBL_EPSILON * t)
            return step >= low && step <= high ? step : t;
        if (between(low, high) == low) return low;
        t = pass >= FREE_PASSES && pass % 2 ? between(low, high) : step;
    }
    return low;
}

/* The root of every n / SAMPLE-th line: within a few percent of the root of all. */
static double sampled(const Lines *lines, double level, double available) {
    double slope[SAMPLE], offset[SAMPLE], cost[SAMPLE];
    const int64_t step = lines->n / SAMPLE;
    for (int64_t i = 0; i < SAMPLE; i++) {
        const int64_t j = i * step + step / 2;
        slope[i] = lines->single ? ((const float *)lines->slope)[j]
                                 : ((const double *)lines->slope)[j];
        offset[i] = lines->offset[j * lines->offset_stride];
        cost[i] = lines->cost[j * lines->cost_stride];
    }
    const Lines few = {slope, offset, cost, SAMPLE, 0, 1, 1};
    const Point all = survey(&few);
    const double share = level * (all.spent / available);
    int32_t passes;
    return newton(&few, share, share / all.rate, &passes);
}

/* The t at which each row of n lines spends its level: inf where the level is never spent. */
EXPORT void secateur_root(int64_t rows, int64_t n, int64_t single, const void *slope,
                          const double *offset, int64_t offset_row, int64_t offset_stride,
                          const double *cost, int64_t cost_row, int64_t cost_stride,
                          const double *level, const double *start, double *root,
                          int32_t *passes) {
    for (int64_t row = 0; row < rows; row++) {
        const char *slopes = (const char *)slope + row * n * (single ? sizeof(float) : sizeof(double));
        const Lines lines = {slopes, offset + row * offset_row, cost + row * cost_row,
                             n, single, offset_stride, cost_stride};
        const Point all = survey(&lines);
        passes[row] = 0;
        if (isnan(all.spent) || isnan(level[row])) {
            root[row] = NAN;
        } else if (all.spent <= level[row]) {
            root[row] = INFINITY;
        } else {
            double t = start[row];
            if (!(t > 0 && t < DBL_MAX))
                t = n >= SAMPLE_FROM ? sampled(&lines, level[row], all.spent)
                                     : level[row] / all.rate;
            root[row] = newton(&lines, level[row], t, passes + row);
        }
    }
}

/* Each line's factor, top u / (u + offset), with u = clip(t |slope| - offset, 0, 1), top = 1 + offset
   (firm) or 1 (prox); 1 where that is 0 / 0. It is written, or multiplied into what is there. */
#define FACTORS(NAME, TYPE)                                                                         \
    WIDE static void NAME(int64_t n, const TYPE *slope, const double *offset, int64_t stride,       \
                          double t, int64_t firm, int64_t scale, TYPE *out) {                       \
        for (int64_t j = 0; j < n; j++) {                                                           \
            const double shift = offset[stride ? j * stride : 0];                                   \
            const double line = t * fabs((double)slope[j]) - shift;                                 \
            const double above = line < 0 ? 0 : line, kept = above > 1 ? 1 : above;                 \
            const double whole = kept + shift, top = firm ? (1 + shift) * kept : kept;              \
            const double factor = whole == 0 ? 1 : top / whole;                                     \
            out[j] = (TYPE)(scale ? out[j] * factor : factor);                                      \
        }                                                                                           \
    }

FACTORS(factors_float, float)
FACTORS(factors_double, double)

EXPORT void secateur_factors(int64_t rows, int64_t n, int64_t single, const void *slope,
                             const double *offset, int64_t offset_row, int64_t offset_stride,
                             const double *root, int64_t firm, int64_t scale, void *out) {
    for (int64_t row = 0; row < rows; row++, offset += offset_row) {
        const double t = root[row] > DBL_MAX ? DBL_MAX : root[row]; /* so that inf * 0 is 0 */
        if (single)
            factors_float(n, (const float *)slope + row * n, offset, offset_stride, t, firm,
                          scale, (float *)out + row * n);
        else
            factors_double(n, (const double *)slope + row * n, offset, offset_stride, t, firm,
                           scale, (double *)out + row * n);
    }
}

/* The Euclidean norm of each row of `size` numbers; a few rows side by side where they are short. */
#define NORMS(NAME, TYPE)                                                                           \
    static double NAME##_rescaled(int64_t size, const TYPE *values, double norm) {                  \
        double peak = 0, squares = 0; /* the squares of doubles may leave the range */              \
        for (int64_t i = 0; i < size; i++) peak = fmax(fabs((double)values[i]), peak);              \
        if (!(peak > 0 && peak <= DBL_MAX)) return norm;                                            \
        for (int64_t i = 0; i < size; i++) squares += (values[i] / peak) * (values[i] / peak);      \
        return peak * sqrt(squares);                                                                \
    }                                                                                               \
    WIDE static void NAME(int64_t rows, int64_t size, const TYPE *values, double *norms) {          \
        int64_t row = 0;                                                                            \
        for (; size < SHORT && row + LANES <= rows; row += LANES) {                                 \
            const TYPE *first = values + row * size;                                                \
            double squares[LANES] = {0};                                                            \
            for (int64_t i = 0; i < size; i++)                                                      \
                for (int l = 0; l < LANES; l++)                                                     \
                    squares[l] += (double)first[l * size + i] * (double)first[l * size + i];        \
            for (int l = 0; l < LANES; l++) norms[row + l] = squares[l];                            \
        }                                                                                           \
        for (; row < rows; row++) {                                                                 \
            const TYPE *first = values + row * size;                                                \
            double squares = 0;                                                                     \
            _Pragma("omp simd reduction(+ : squares)")                                              \
            for (int64_t i = 0; i < size; i++) squares += (double)first[i] * (double)first[i];      \
            norms[row] = squares;                                                                   \
        }                                                                                           \
        for (row = 0; row < rows; row++) {                                                          \
            const double squares = norms[row], norm = sqrt(squares);                                \
            const int safe = squares > 1e-280 && squares < 1e300;                                   \
            norms[row] = safe ? norm : NAME##_rescaled(size, values + row * size, norm);            \
        }                                                                                           \
    }

NORMS(norms_float, float)
NORMS(norms_double, double)

EXPORT void secateur_norms(int64_t rows, int64_t size, int64_t single, const void *values,
                           double *norms) {
    if (single) norms_float(rows, size, values, norms);
    else norms_double(rows, size, values, norms);
}

/* Multiply each row of `size` numbers by its factor; rows with a factor of 1 are not touched. */
#define SCALE(NAME, TYPE)                                                                           \
    WIDE static void NAME(int64_t rows, int64_t size, TYPE *values, const double *factors) {        \
        for (int64_t row = 0; row < rows; row++, values += size) {                                  \
            const TYPE factor = (TYPE)factors[row];                                                 \
            if (factors[row] == 1) continue;                                                        \
            for (int64_t i = 0; i < size; i++) values[i] *= factor;                                 \
        }                                                                                           \
    }

SCALE(scale_float, float)
SCALE(scale_double, double)

EXPORT void secateur_scale(int64_t rows, int64_t size, int64_t single, void *values,
                           const double *factors) {
    if (single) scale_float(rows, size, values, factors);
    else scale_double(rows, size, values, factors);
}
