/* The scalar root and the passes around it, each in one sweep over memory (cpu.py calls them).

   In: plain arrays, float or double. Out: what the last argument points to. C99, without Python's or
   torch's headers; all arithmetic is in double, but for one division of float by float. */

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "_compiled.h"

enum { ABI = 5, LANES = 8, BLOCK = 1024, SHORT = 32 };
enum { LONG_ROW = 1 << 15, SAMPLE_OF = 64, LEAST_SAMPLE = 2048, LARGEST_SAMPLE = 1 << 16, RUN = 8 };
enum { FREE_PASSES = 10, MOST_PASSES = FREE_PASSES + 2 * 64 };

EXPORT int secateur_abi(void) { return ABI; }
EXPORT int secateur_most_passes(void) { return MOST_PASSES; }
EXPORT void *PyInit__fused(void) { return 0; } /* what some linkers ask an extension for */

/* Numbers in rows; a stride of 0 repeats one number, and no address stands for ones. Addresses, too,
   are int64_t. */
typedef struct {
    int64_t address, single, row, stride; /* single: float, not double */
} Numbers;

static Numbers from(Numbers of, int64_t row, int64_t first) {
    const int64_t start = row * of.row + first * of.stride;
    if (of.address) of.address += start * (of.single ? (int64_t)sizeof(float) : (int64_t)sizeof(double));
    return of;
}

/* n lines, of which the sum is asked:  sum_j cost_j clip(t slope_j - offset_j, 0, 1).

   Slopes are magnitudes. Weights w make them |slope| sqrt(w / cost), and with `spread` the offsets
   offset w: the lines of prox and firm, from what a caller has at hand. `finite` makes inf NaN. With a
   step, the lines are a sample: RUN of them, then RUN of them `step` further on. */
typedef struct {
    Numbers slope, offset, cost, weight;
    int64_t n, spread, finite, step;
} Lines;

/* BLOCK lines at a time, in the cache, filled up with lines that spend nothing. */
typedef struct {
    double slope[BLOCK], offset[BLOCK], cost[BLOCK], weight[BLOCK];
} Block;

/* What lines whose side is decided spend: full + t rate - shift. */
typedef struct {
    double full, rate, shift;
} Decided;

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

WIDE static void copy(double *to, Numbers of, int64_t count) {
    const float *singles = (const float *)(intptr_t)of.address;
    const double *doubles = (const double *)(intptr_t)of.address;
    if (!of.address)
        for (int64_t i = 0; i < count; i++) to[i] = 1;
    else if (of.stride == 1 && of.single)
        for (int64_t i = 0; i < count; i++) to[i] = singles[i];
    else if (of.stride == 1)
        for (int64_t i = 0; i < count; i++) to[i] = doubles[i];
    else
        for (int64_t i = 0; i < count; i++)
            to[i] = of.single ? singles[i * of.stride] : doubles[i * of.stride];
}

WIDE static void weigh(Block *block, int64_t spread) {
    for (int i = 0; i < BLOCK; i++) {
        const double slope = block->slope[i] * sqrt(block->weight[i] / block->cost[i]);
        block->slope[i] = slope > DBL_MAX ? DBL_MAX : slope; /* NaN stays NaN */
    }
    for (int i = 0; spread && i < BLOCK; i++) block->offset[i] *= block->weight[i];
}

/* Numbers of a block, with some number up to its end. */
static void take(double *to, Numbers of, const Lines *lines, int64_t start, int64_t count) {
    if (!lines->step) copy(to, from(of, 0, start), count);
    for (int64_t i = 0; lines->step && i < count; i += RUN)
        copy(to + i, from(of, 0, (start + i) / RUN * lines->step), RUN);
    for (int64_t i = count; i < BLOCK; i++) to[i] = to[0];
}

/* What repeats one number is filled in with the first block and stays. */
WIDE static void fill(Block *block, const Lines *lines, int64_t start) {
    const int64_t left = lines->n - start, count = left < BLOCK ? left : BLOCK;
    const int weighed = lines->weight.address != 0;
    take(block->slope, lines->slope, lines, start, count);
    for (int64_t i = 0; i < count; i++) {
        const double slope = fabs(block->slope[i]), largest = lines->finite ? NAN : DBL_MAX;
        block->slope[i] = slope > DBL_MAX ? largest : slope;
    }
    for (int64_t i = count; i < BLOCK; i++) block->slope[i] = 0;
    if (!start || lines->cost.stride) take(block->cost, lines->cost, lines, start, count);
    if (!start || lines->offset.stride || weighed) take(block->offset, lines->offset, lines, start, count);
    if (weighed) take(block->weight, lines->weight, lines, start, count);
    if (weighed) weigh(block, lines->spread);
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
        rate += slope < DBL_MAX ? cost * slope : 0;
    }
    return (Point){spent, rate};
}

static Point swept(const Lines *lines, double t, Point (*sweep)(const Block *, double)) {
    Block block;
    Sum spent = {0, 0}, rate = {0, 0};
    for (int64_t start = 0; start < lines->n; start += BLOCK) {
        fill(&block, lines, start);
        const Point part = sweep(&block, t);
        add(&spent, part.spent);
        add(&rate, part.rate);
    }
    return (Point){sum(spent), sum(rate)};
}

static Point survey(const Lines *lines) { return swept(lines, 0, survey_block); }

static Point evaluate(const Lines *lines, const Decided *decided, double t) {
    const Point open = swept(lines, t, evaluate_block);
    const double straight = decided->rate > 0 ? t * decided->rate - decided->shift : 0;
    return (Point){open.spent + (decided->full + straight), open.rate + decided->rate};
}

static double between(double low, double high) {
    /* Positive doubles are ordered like their bits: this halves how many lie in the bracket. */
    uint64_t a, b;
    memcpy(&a, &low, sizeof a);
    memcpy(&b, &high, sizeof b);
    a += (b - a) / 2;
    memcpy(&low, &a, sizeof a);
    return low;
}

/* Newton's method from t inside a bracket. A step solves the linear piece it stands on, so that the
   last one is exact to rounding. The function is neither convex nor concave, so steps may cycle:
   after FREE_PASSES, every other one halves the number of doubles in the bracket instead, of which
   there are less than 2^63. No input takes more than MOST_PASSES, each linear in n. */
static double newton(const Lines *lines, const Decided *decided, double level, double low, double t,
                     double high, int32_t *passes) {
    for (int pass = 1; pass <= MOST_PASSES; pass++) {
        if (!(t > low && t < high)) t = between(low, high);
        const Point at = evaluate(lines, decided, t);
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

static const Decided NOTHING = {0, 0, 0};

/* Room for some lines: slopes, offsets and costs. */
typedef struct {
    double *slope, *offset, *cost;
    int64_t capacity;
} Room;

static Room room(double *scratch, int64_t capacity) {
    return (Room){scratch, scratch + capacity, scratch + 2 * capacity, capacity};
}

static Lines lines_in(const Room *room, int64_t count) {
    const Numbers slope = {(intptr_t)room->slope, 0, 0, 1}, offset = {(intptr_t)room->offset, 0, 0, 1};
    const Numbers cost = {(intptr_t)room->cost, 0, 0, 1}, none = {0, 0, 0, 0};
    return (Lines){slope, offset, cost, none, count, 0, 0, 0};
}

typedef struct {
    double low, middle, high;
} Bracket;

/* Where the root probably is, from every so manieth run of RUN lines: the level's share of them is off
   by a few standard deviations of what such a sample spends, or by a few of its dearest lines. */
static Bracket sampled(const Lines *lines, double level, const Room *room) {
    int64_t count = lines->n / SAMPLE_OF / BLOCK * BLOCK;
    count = count < LEAST_SAMPLE ? LEAST_SAMPLE : count > LARGEST_SAMPLE ? LARGEST_SAMPLE : count;
    Lines runs = *lines;
    runs.n = count;
    runs.step = lines->n / (count / RUN);
    Block block;
    for (int64_t done = 0; done < count; done += BLOCK) {
        fill(&block, &runs, done);
        memcpy(room->slope + done, block.slope, sizeof block.slope);
        memcpy(room->offset + done, block.offset, sizeof block.offset);
        memcpy(room->cost + done, block.cost, sizeof block.cost);
    }
    const Lines few = lines_in(room, count);
    const Point all = survey(&few);
    const double share = level * ((double)count / (double)lines->n);
    if (!(share < all.spent)) return (Bracket){0, NAN, DBL_MAX};
    int32_t passes;
    Bracket found = {0, newton(&few, &NOTHING, share, 0, share / all.rate, DBL_MAX, &passes), DBL_MAX};
    double total = 0, squares = 0, dearest = 0;
    for (int64_t i = 0; i < count; i += RUN) {
        double spent = 0;
        for (int64_t l = i; l < i + RUN; l++) {
            const double line = found.middle * room->slope[l] - room->offset[l];
            spent += room->cost[l] * (line < 0 ? 0 : line > 1 ? 1 : line);
            dearest = room->cost[l] > dearest ? room->cost[l] : dearest;
        }
        total += spent, squares += spent * spent;
    }
    const double variance = squares - total * total / (double)(count / RUN);
    const double margin = 3 * (sqrt(variance > 0 ? variance : 0) + dearest);
    if (share > margin)
        found.low = newton(&few, &NOTHING, share - margin, 0, found.middle, DBL_MAX, &passes);
    if (share + margin < all.spent)
        found.high = newton(&few, &NOTHING, share + margin, 0, found.middle, DBL_MAX, &passes);
    return found;
}

typedef struct {
    Decided decided;
    double available; /* what the lines can spend; NaN where anything is NaN */
} Sorted;

/* Which lines are full, empty or straight in all of the bracket; the others are marked as open. */
WIDE static Sorted sort_block(const Block *block, double low, double high, double *open) {
    double full = 0, rate = 0, shift = 0, available = 0;
#pragma omp simd reduction(+ : full, rate, shift, available)
    for (int i = 0; i < BLOCK; i++) {
        const double slope = block->slope[i], offset = block->offset[i], cost = block->cost[i];
        const double first = low * slope - offset, last = high * slope - offset;
        const double straight = first >= 0 && first < 1 && last <= 1 ? cost : 0;
        full += first >= 1 ? cost : 0;
        rate += straight * slope;
        shift += straight * offset;
        available += (slope > 0 ? cost : slope * cost) + 0 * offset;
        open[i] = last > 0 && first < 1 && (first < 0 || last > 1) ? 1 : 0;
    }
    return (Sorted){{full, rate, shift}, available};
}

/* Add the open lines of a block to what is in the room. */
WIDE static int64_t collect(const Block *block, const double *open, const Room *room, int64_t count) {
    for (int i = 0; i < BLOCK; i += LANES) {
        double any = 0;
#pragma omp simd reduction(+ : any)
        for (int l = i; l < i + LANES; l++) any += open[l];
        for (int l = i; any > 0 && l < i + LANES; l++) {
            room->slope[count] = block->slope[l];
            room->offset[count] = block->offset[l];
            room->cost[count] = block->cost[l];
            count += open[l] > 0;
        }
    }
    return count;
}

/* The bracket as bounds on floats, where offset and cost are the same for all lines: rounded so that
   what they decide is decided. Between straight_to and full_from, and empty_to and straight_from, a
   line is open. */
typedef struct {
    float empty_to, straight_from, straight_to, full_from;
} Bounds;

static float below(double x) {
    const float near = x > FLT_MAX ? FLT_MAX : (float)x;
    return near > x ? nextafterf(near, 0) : near;
}

static float above(double x) {
    const float near = x > FLT_MAX ? INFINITY : (float)x;
    return near < x ? nextafterf(near, INFINITY) : near;
}

/* sort_block for floats as they lie in memory, BLOCK of them or fewer. */
WIDE static Sorted sort_floats(const float *slopes, int count, Bounds bounds, double offset, double cost,
                               int32_t *open) {
    int32_t full = 0, straight = 0, positive = 0, broken = 0;
    double rate = 0;
#pragma omp simd reduction(+ : full, straight, positive, broken, rate)
    for (int i = 0; i < count; i++) {
        const float slope = fabsf(slopes[i]);
        const int32_t is_full = slope >= bounds.full_from ? 1 : 0;
        const int32_t is_straight =
            slope >= bounds.straight_from && slope <= bounds.straight_to && !is_full ? 1 : 0;
        full += is_full;
        straight += is_straight;
        rate += is_straight ? slope : 0;
        positive += slope > 0 ? 1 : 0;
        broken += slope <= FLT_MAX ? 0 : 1;
        open[i] = slope > bounds.empty_to ? 1 - is_full - is_straight : 0;
    }
    const Decided decided = {cost * full, cost * rate, cost * offset * straight};
    return (Sorted){decided, broken ? NAN : cost * positive};
}

/* As `collect`, but of slopes only. */
WIDE static int64_t collect_floats(const float *slopes, int count, const int32_t *open, double *room,
                                   int64_t found) {
    for (int i = 0; i < count; i += 2 * LANES) {
        const int end = i + 2 * LANES < count ? i + 2 * LANES : count;
        int32_t any = 0;
        for (int l = i; l < i + 2 * LANES; l++) any += open[l];
        for (int l = i; any && l < end; l++) {
            room[found] = fabs((double)slopes[l]);
            found += open[l];
        }
    }
    return found;
}

/* A look at all lines, block by block, that keeps the open ones aside as long as there is room. */
typedef struct {
    const Lines *lines;
    Bracket at;
    const Room *room;
    int64_t open; /* how many are in the room; below 0 where it was too small */
} Look;

static int has_room(const Look *look, int64_t capacity) {
    return look->open >= 0 && look->open + BLOCK <= capacity;
}

static Sorted look_at(Look *look, int64_t start, Block *block) {
    double open[BLOCK];
    fill(block, look->lines, start);
    const Sorted found = sort_block(block, look->at.low, look->at.high, open);
    look->open = has_room(look, look->room->capacity) ? collect(block, open, look->room, look->open) : -1;
    return found;
}

/* For floats with one offset and one cost, which the block holds; slopes may fill the whole room. */
static Sorted look_at_floats(Look *look, int64_t start, const Block *block) {
    const double offset = block->offset[0], cost = block->cost[0];
    const Bounds bounds = {below(offset / look->at.high), above(offset / look->at.low),
                           below((1 + offset) / look->at.high), above((1 + offset) / look->at.low)};
    const float *slopes = (const float *)(intptr_t)look->lines->slope.address + start;
    const int64_t left = look->lines->n - start;
    const int count = left < BLOCK ? (int)left : BLOCK;
    int32_t open[BLOCK];
    memset(open + count, 0, (BLOCK - count) * sizeof open[0]);
    const Sorted found = sort_floats(slopes, count, bounds, offset, cost, open);
    const int fits = has_room(look, 3 * look->room->capacity);
    look->open = fits ? collect_floats(slopes, count, open, look->room->slope, look->open) : -1;
    return found;
}

static int are_floats_alike(const Lines *lines) {
    return lines->slope.single && lines->slope.stride == 1 && lines->finite &&
           !lines->weight.address && !lines->offset.stride && !lines->cost.stride;
}

/* One look decides most lines, on a bracket that is probably right; the root is then found among the
   few others. Where the bracket was wrong, or the room too small, all are searched. */
static double divided(const Lines *lines, double level, Bracket at, const Room *room, int32_t *passes) {
    const int alike = are_floats_alike(lines);
    Look look = {lines, at, room, 0};
    Sum full = {0, 0}, rate = {0, 0}, shift = {0, 0}, available = {0, 0};
    Block block;
    fill(&block, lines, 0);
    for (int64_t start = 0; start < lines->n; start += BLOCK) {
        const Sorted part =
            alike ? look_at_floats(&look, start, &block) : look_at(&look, start, &block);
        add(&full, part.decided.full);
        add(&rate, part.decided.rate);
        add(&shift, part.decided.shift);
        add(&available, part.available);
    }
    *passes = 0;
    if (isnan(sum(available))) return NAN;
    if (sum(available) <= level) return INFINITY;
    *passes = 1;
    const Decided decided = {sum(full), sum(rate), sum(shift)};
    Lines few = lines_in(room, look.open);
    if (alike) few.offset = lines->offset, few.cost = lines->cost;
    if (look.open >= 0 && evaluate(&few, &decided, at.low).spent <= level &&
        evaluate(&few, &decided, at.high).spent >= level) {
        int32_t few_passes;
        return newton(&few, &decided, level, at.low, at.middle, at.high, &few_passes);
    }
    return newton(lines, &NOTHING, level, 0, at.middle, DBL_MAX, passes);
}

/* The t at which a row spends its level: inf where it never does. */
static double root_of(const Lines *lines, double level, double start, const Room *room,
                      int32_t *passes) {
    const int warm = start > 0 && start < DBL_MAX;
    *passes = 0;
    if (isnan(level)) return NAN;
    if (lines->n >= LONG_ROW) {
        const Bracket near = {start / 1.01, start, start * 1.01};
        return divided(lines, level, warm ? near : sampled(lines, level, room), room, passes);
    }
    const Point all = survey(lines);
    if (isnan(all.spent)) return NAN;
    if (all.spent <= level) return INFINITY;
    return newton(lines, &NOTHING, level, 0, warm ? start : level / all.rate, DBL_MAX, passes);
}

static Lines lines_of(const Numbers *numbers, int64_t row, int64_t n, int64_t first, int64_t spread,
                      int64_t finite) {
    return (Lines){from(numbers[0], row, first), from(numbers[1], row, first),
                   from(numbers[2], row, first), from(numbers[3], row, first),
                   n, spread, finite, 0};
}

/* The roots of rows of n lines or, with bounds, of the lines from bounds[row] to bounds[row + 1].
   Numbers: slopes, offsets, costs, weights. Scratch: 3 x capacity doubles. */
EXPORT void secateur_root(int64_t rows, int64_t n, const int64_t *bounds, const Numbers *numbers,
                          int64_t spread, int64_t finite, const double *level, const double *start,
                          double *scratch, int64_t capacity, double *root, int32_t *passes) {
    const Room space = room(scratch, capacity);
    for (int64_t row = 0; row < rows; row++) {
        const int64_t first = bounds ? bounds[row] : 0, count = bounds ? bounds[row + 1] - first : n;
        const Lines lines = lines_of(numbers, bounds ? 0 : row, count, first, spread, finite);
        root[row] = root_of(&lines, level[row], start[row], &space, passes + row);
    }
}

/* Each line's factor, top u / (u + offset), with u = clip(t slope - offset, 0, 1), top = 1 + offset
   (firm) or 1 (prox); 1 where that is 0 / 0. It is written, or multiplied into what is there. Where
   the result is float and no offset leads out of its range, float divides twice as fast. */
#define FACTORS(NAME, TYPE, DIVIDE)                                                                 \
    WIDE static void NAME(const Block *block, int64_t n, double t, int firm, int scale, TYPE *out) {\
        for (int64_t j = 0; j < n; j++) {                                                           \
            const double shift = block->offset[j], line = t * block->slope[j] - shift;              \
            const double above = line < 0 ? 0 : line, kept = above > 1 ? 1 : above;                 \
            const double whole = kept + shift, top = firm ? (1 + shift) * kept : kept;              \
            const DIVIDE factor = whole == 0 ? 1 : (DIVIDE)top / (DIVIDE)whole;                     \
            out[j] = (TYPE)(scale ? out[j] * factor : factor);                                      \
        }                                                                                           \
    }

FACTORS(factors_double, double, double)
FACTORS(factors_float, float, double)
FACTORS(factors_quick, float, float)

EXPORT void secateur_factors(int64_t rows, int64_t n, const Numbers *numbers, int64_t spread,
                             const double *root, int64_t firm, int64_t scale, void *out) {
    Block block;
    for (int64_t row = 0; row < rows; row++) {
        const Lines lines = lines_of(numbers, row, n, 0, spread, 0);
        const double t = root[row] > DBL_MAX ? DBL_MAX : root[row]; /* so that inf * 0 is 0 */
        for (int64_t start = 0; start < n; start += BLOCK) {
            const int64_t left = n - start, count = left < BLOCK ? left : BLOCK, at = row * n + start;
            fill(&block, &lines, start);
            const double offset = block.offset[0];
            const int same = !lines.offset.stride && !(spread && lines.weight.address);
            if (!numbers[0].single)
                factors_double(&block, count, t, firm != 0, scale != 0, (double *)out + at);
            else if (same && offset > 1e-30 && offset < 1e30)
                factors_quick(&block, count, t, firm != 0, scale != 0, (float *)out + at);
            else
                factors_float(&block, count, t, firm != 0, scale != 0, (float *)out + at);
        }
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
