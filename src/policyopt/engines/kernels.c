/* The parts of a decoding step that are no matrix products, for processors.
 *
 * REAL: type of states (float or double). LOW: type of what products read and write and of cached keys and values:
 * REAL itself, or bfloat16 with -DLOW_BFLOAT16. `engines/kernels.py` compiles and calls this; `engines/cache.py` says the
 * same in torch, and tests hold both to one result.
 */
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#ifdef LOW_BFLOAT16
typedef uint16_t LOW;
static inline REAL up(LOW x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static inline LOW down(REAL x) { /* to the nearest, ties to even */
    float value = x;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (LOW)(x != x ? 0x7fc0 : rounded);
}
#else
typedef REAL LOW;
static inline REAL up(LOW x) { return x; }
static inline LOW down(REAL x) { return x; }
#endif

/* exp. In float: 2^n e^r with |r| <= ln 2 / 2 and a polynomial, which compilers can put into vectors; about one unit in the
 * last place. */
static inline double exp_double(double x) { return exp(x); }
static inline float exp_float(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = rintf(x * 1.44269504088896341f);
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}
#define EXP(x) _Generic((REAL)0, float: exp_float, double: exp_double)(x)

#define INLINE static inline __attribute__((always_inline))

/* Linear maps of few rows: tiles of ROWS rows and PANEL outputs stay in registers while the inputs go by. Weights stand as
 * (outputs / PANEL, inputs / PAIR, PANEL, PAIR), so that they are read in order. */
#ifdef __AVX512F__
#define BYTES 64
#define ROWS 12
#else
#define BYTES 32
#define ROWS 6
#endif
typedef REAL VECTOR __attribute__((vector_size(BYTES), aligned(sizeof(REAL))));
typedef __typeof__((VECTOR){0} < (VECTOR){0}) PLACES; /* of lanes */
enum { LANES = BYTES / sizeof(REAL), PANEL = 2 * LANES };
#ifdef LOW_BFLOAT16
#define PAIR 2
#else
#define PAIR 1
#endif

INLINE void fma_pair(VECTOR *sum, const LOW *x, const LOW *weight) {
#if !defined(LOW_BFLOAT16)
    for (int n = 0; n < 2; n++) sum[n] += *x * *(const VECTOR *)(weight + n * LANES);
#elif defined(__AVX512BF16__)
    int32_t both;
    memcpy(&both, x, sizeof both);
    const __m512bh a = (__m512bh)_mm512_set1_epi32(both);
    for (int n = 0; n < 2; n++)
        sum[n] = (VECTOR)_mm512_dpbf16_ps((__m512)sum[n], a, (__m512bh)_mm512_loadu_si512(weight + n * LANES * PAIR));
#endif
}

INLINE void tile(const LOW *x, const LOW *weight, int64_t inputs, const REAL *base, int64_t base_row, REAL *out, LOW *low,
                 int64_t out_row, const int rows) {
    VECTOR sum[ROWS][2];
    for (int m = 0; m < rows; m++) sum[m][0] = sum[m][1] = (VECTOR){0};
    for (int64_t k = 0; k < inputs; k += PAIR)
        for (int m = 0; m < rows; m++) fma_pair(sum[m], x + m * inputs + k, weight + k * PANEL);
    for (int m = 0; m < rows; m++)
        for (int n = 0; n < 2; n++) {
            VECTOR found = sum[m][n];
            if (base) found += *(const VECTOR *)(base + m * base_row + n * LANES);
            if (out) *(VECTOR *)(out + m * out_row + n * LANES) = found;
            else {
#if defined(LOW_BFLOAT16) && defined(__AVX512BF16__)
                const __m256i rounded = (__m256i)_mm512_cvtneps_pbh((__m512)found);
                _mm256_storeu_si256((__m256i *)(low + m * out_row + n * LANES), rounded);
#else
                for (int l = 0; l < LANES; l++) low[m * out_row + n * LANES + l] = down(found[l]);
#endif
            }
        }
}

/* x weight^T + base, into `out` or (if that is NULL) `low`. base: NULL, or rows base_row apart (0: one for all). */
void linear(const LOW *x, const LOW *weight, const REAL *base, int64_t base_row, REAL *out, LOW *low, int64_t rows,
            int64_t inputs, int64_t outputs, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (int64_t p = 0; p < outputs / PANEL; p++) {
        const LOW *panel = weight + p * PANEL * inputs;
        int64_t m = 0;
#define TILES(size)                                                                                             \
    for (; m + size <= rows; m += size)                                                                         \
        tile(x + m * inputs, panel, inputs, base ? base + m * base_row + p * PANEL : base, base_row,            \
             out ? out + m * outputs + p * PANEL : out, low ? low + m * outputs + p * PANEL : low, outputs, size);
        TILES(ROWS)
        TILES(4)
        TILES(1)
    }
}

/* How weights are to stand: outputs of a panel and inputs of a pair; 0 if this processor lacks the instructions. */
int64_t panel(void) {
#if defined(LOW_BFLOAT16) && !defined(__AVX512BF16__)
    return 0;
#else
    return PANEL;
#endif
}
int64_t pair(void) { return PAIR; }

typedef struct {
    int64_t rows, groups, repeats, dim;
    int64_t low, used, capacity; /* own columns that exist: low .. used - 1; the last one is written here */
    int64_t width;               /* columns of contexts */
    int64_t window;              /* 0: none */
    int64_t threads, room;       /* room: scratch of a thread */
    double cap;                  /* 0: none */
    const LOW *heads;            /* rows, groups, repeats + 2, dim: queries, key, value */
    const REAL *table;           /* positions, dim / 2, (cos, sin) */
    const int64_t *position, *of, *start, *length;
    LOW *own_key, *own_value;             /* rows, groups, capacity, dim */
    const LOW *shared_key, *shared_value; /* contexts, groups, width, dim */
    LOW *out;                             /* rows, groups, repeats, dim */
    REAL *scratch;
} Attend;

INLINE void turn(const LOW *x, const REAL *angle, REAL *out, int64_t dim) {
    for (int64_t j = 0; j < dim / 2; j++) {
        REAL a = up(x[2 * j]), b = up(x[2 * j + 1]), c = angle[2 * j], s = angle[2 * j + 1];
        out[2 * j] = a * c - b * s;
        out[2 * j + 1] = a * s + b * c;
    }
}

INLINE VECTOR load(const LOW *x) {
#ifdef LOW_BFLOAT16
    typedef uint16_t HALVES __attribute__((vector_size(BYTES / 2), aligned(2)));
    typedef uint32_t WHOLE __attribute__((vector_size(BYTES)));
    return (VECTOR)(__builtin_convertvector(*(const HALVES *)x, WHOLE) << 16);
#else
    return *(const VECTOR *)x;
#endif
}

/* Sums of the lanes of LANES vectors: pairs of neighbours are added until one vector is left. */
INLINE VECTOR summed(VECTOR *part) {
    PLACES even, odd;
    for (int l = 0; l < LANES; l++) even[l] = 2 * l, odd[l] = 2 * l + 1;
    for (int left = LANES / 2; left > 0; left /= 2)
        for (int i = 0; i < left; i++) {
            const VECTOR one = part[2 * i], other = part[2 * i + 1];
            part[i] = __builtin_shuffle(one, other, even) + __builtin_shuffle(one, other, odd);
        }
    return part[0];
}

INLINE void scores(const REAL *restrict query, const LOW *restrict keys, int64_t count, REAL *restrict score,
                   const int64_t dim) {
    int64_t c = 0;
    if (dim % LANES == 0)
        for (; c + LANES <= count; c += LANES) {
            VECTOR part[LANES];
            for (int i = 0; i < LANES; i++) {
                part[i] = (VECTOR){0};
                for (int64_t d = 0; d < dim; d += LANES)
                    part[i] += *(const VECTOR *)(query + d) * load(keys + (c + i) * dim + d);
            }
            *(VECTOR *)(score + c) = summed(part);
        }
    for (; c < count; c++) {
        REAL sum = 0;
        for (int64_t d = 0; d < dim; d++) sum += query[d] * up(keys[c * dim + d]);
        score[c] = sum;
    }
}

INLINE void weigh(const REAL *restrict weight, const LOW *restrict values, int64_t count, REAL *restrict sum,
                  const int64_t dim) {
    enum { APART = 4 }; /* sums that do not wait for each other */
    int64_t c = 0;
    if (dim % LANES == 0 && dim <= 4 * LANES) {
        VECTOR part[APART][4];
        for (int i = 0; i < APART; i++)
            for (int64_t d = 0; d < dim; d += LANES) part[i][d / LANES] = (VECTOR){0};
        for (; c + APART <= count; c += APART)
            for (int i = 0; i < APART; i++)
                for (int64_t d = 0; d < dim; d += LANES)
                    part[i][d / LANES] += weight[c + i] * load(values + (c + i) * dim + d);
        for (int64_t d = 0; d < dim; d += LANES)
            for (int i = 0; i < APART; i++) *(VECTOR *)(sum + d) += part[i][d / LANES];
    }
    for (; c < count; c++)
        for (int64_t d = 0; d < dim; d++) sum[d] += weight[c] * up(values[c * dim + d]);
}

INLINE void attend_rows(const Attend *a, const int64_t dim) {
    const int64_t repeats = a->repeats, last = a->used - 1;
#pragma omp parallel num_threads((int)a->threads)
    {
        REAL *query = a->scratch + omp_get_thread_num() * a->room, *sum = query + dim, *score = sum + dim;
#pragma omp for schedule(static)
        for (int64_t r = 0; r < a->rows; r++) {
            const int64_t context = a->of[r], length = a->length[context], position = a->position[r];
            const REAL *angle = a->table + position * dim;
            int64_t first = 0, begin = a->start[r]; /* the first column seen, of the context and of the own ones */
            if (a->window && position >= a->window) {
                const int64_t oldest = position - a->window + 1;
                first = oldest < length ? oldest : length;
                if (oldest > length) begin += oldest - length;
            }
            const int64_t before = length - first, own = a->used - begin, count = before + own;
            for (int64_t g = 0; g < a->groups; g++) {
                const LOW *heads = a->heads + (r * a->groups + g) * (repeats + 2) * dim;
                LOW *keys = a->own_key + (r * a->groups + g) * a->capacity * dim;
                LOW *values = a->own_value + (r * a->groups + g) * a->capacity * dim;
                const int64_t shared = ((context * a->groups + g) * a->width + first) * dim;
                turn(heads + repeats * dim, angle, sum, dim);
                for (int64_t d = 0; d < dim; d++) keys[last * dim + d] = down(sum[d]);
                memcpy(values + last * dim, heads + (repeats + 1) * dim, dim * sizeof(LOW));
                for (int64_t i = 0; i < repeats; i++) {
                    turn(heads + i * dim, angle, query, dim);
                    scores(query, a->shared_key + shared, before, score, dim);
                    scores(query, keys + begin * dim, own, score + before, dim);
                    if (a->cap > 0)
                        for (int64_t c = 0; c < count; c++) score[c] = a->cap * tanh(score[c] / a->cap);
                    REAL most = score[0], total = 0;
#pragma omp simd reduction(max : most)
                    for (int64_t c = 1; c < count; c++) most = score[c] > most ? score[c] : most;
                    for (int64_t c = 0; c < count; c++) score[c] = EXP(score[c] - most);
                    for (int64_t c = 0; c < count; c++) total += score[c];
                    for (int64_t d = 0; d < dim; d++) sum[d] = 0;
                    weigh(score, a->shared_value + shared, before, sum, dim);
                    weigh(score + before, values + begin * dim, own, sum, dim);
                    LOW *out = a->out + ((r * a->groups + g) * repeats + i) * dim;
                    for (int64_t d = 0; d < dim; d++) out[d] = down(sum[d] / total);
                }
            }
        }
    }
}

/* Rotary positions, writing of the new keys and values, and attention of one more token per row over
 * [its context | its own columns]. */
void attend(const Attend *a) {
    switch (a->dim) { /* known sizes: loops without remainders */
        case 32: attend_rows(a, 32); break;
        case 64: attend_rows(a, 64); break;
        case 128: attend_rows(a, 128); break;
        default: attend_rows(a, a->dim);
    }
}

/* x / sqrt(mean x^2 + epsilon) * weight over the last of (rows, size). */
void rms_norm(const REAL *x, const REAL *weight, LOW *out, int64_t rows, int64_t size, double epsilon, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (int64_t r = 0; r < rows; r++) {
        const REAL *row = x + r * size;
        REAL sum = 0;
        for (int64_t d = 0; d < size; d++) sum += row[d] * row[d];
        const REAL scale = 1 / sqrt(sum / size + epsilon);
        for (int64_t d = 0; d < size; d++) out[r * size + d] = down(row[d] * scale * weight[d]);
    }
}

/* silu(gate) * up of (rows, [gate | up]). */
void gated_silu(const LOW *wide, LOW *out, int64_t rows, int64_t size, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (int64_t r = 0; r < rows; r++) {
        const LOW *gate = wide + 2 * r * size, *other = gate + size;
        for (int64_t d = 0; d < size; d++) {
            const REAL x = up(gate[d]);
            out[r * size + d] = down(x / (1 + EXP(-x)) * up(other[d]));
        }
    }
}

/* Tokens from softmax(logits / heat) by inverting the cumulative distribution at `uniform`, and their log-probabilities.
 * logits are overwritten. */
void choose(REAL *logits, const double *heat, const double *uniform, int64_t *token, double *logp, int64_t rows,
            int64_t size, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (int64_t r = 0; r < rows; r++) {
        REAL *row = logits + r * size;
        const REAL inverse = 1 / heat[r];
        REAL most = row[0];
        for (int64_t v = 1; v < size; v++) most = row[v] > most ? row[v] : most;
        for (int64_t v = 0; v < size; v++) {
            const REAL x = (row[v] - most) * inverse, p = EXP(x);
            row[v] = x < -87 ? 0 : p; /* what is nearly impossible is impossible */
        }
        double total = 0, below = 0;
        for (int64_t v = 0; v < size; v++) total += row[v];
        const double target = uniform[r] * total;
        int64_t found = -1;
        for (int64_t v = 0; v < size; v++) {
            if (row[v] > 0) found = v;
            below += row[v];
            if (below > target) break;
        }
        token[r] = found < 0 ? 0 : found;
        logp[r] = found < 0 ? NAN : log(row[found]) - log(total);
    }
}
