/* What the kernels for processors share.
 *
 * REAL: type of states (float or double). LOW: type of what products read and write: REAL itself, or bfloat16 with
 * -DLOW_BFLOAT16. `compiled/build.py` compiles whatever includes this.
 */
#pragma once
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

/* x weight^T + base for one panel of outputs, into `out` or (if that is NULL) `low`. base: NULL, or rows base_row apart. */
static void panel_product(const LOW *x, int64_t rows, int64_t inputs, const LOW *panel, const REAL *base,
                          int64_t base_row, REAL *out, LOW *low, int64_t out_row) {
    int64_t m = 0;
#define TILES(size)                                                                                               \
    for (; m + size <= rows; m += size)                                                                           \
        tile(x + m * inputs, panel, inputs, base ? base + m * base_row : base, base_row, out ? out + m * out_row : out, \
             low ? low + m * out_row : low, out_row, size);
    TILES(ROWS)
    TILES(4)
    TILES(1)
#undef TILES
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

/* sum = x + added (if that is not NULL); sum / sqrt(mean sum^2 + epsilon) * weight, in `low` or (if that is NULL) `high`;
 * inverse: NULL, or 1 / the roots. */
void add_norm(const REAL *x, const LOW *added, const REAL *weight, REAL *sum, REAL *inverse, LOW *low, REAL *high,
              int64_t rows, int64_t size, double epsilon, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (int64_t r = 0; r < rows; r++) {
        const REAL *row = x + r * size;
        if (added) {
            for (int64_t d = 0; d < size; d++) sum[r * size + d] = row[d] + up(added[r * size + d]);
            row = sum + r * size;
        }
        REAL squares = 0;
        for (int64_t d = 0; d < size; d++) squares += row[d] * row[d];
        const REAL scale = 1 / sqrt(squares / size + epsilon);
        if (inverse) inverse[r] = scale;
        if (low) for (int64_t d = 0; d < size; d++) low[r * size + d] = down(row[d] * scale * weight[d]);
        else for (int64_t d = 0; d < size; d++) high[r * size + d] = row[d] * scale * weight[d];
    }
}

/* silu(gate) * other, of rows that are `step` apart. */
void gated_silu(const LOW *gate, const LOW *other, LOW *out, int64_t rows, int64_t size, int64_t step, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (int64_t r = 0; r < rows; r++) {
        const LOW *restrict one = gate + r * step, *restrict two = other + r * step;
        LOW *restrict place = out + r * size;
        for (int64_t d = 0; d < size; d++) {
            const REAL x = up(one[d]);
            place[d] = down(x / (1 + EXP(-x)) * up(two[d]));
        }
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
