/* The parts of a decoding step, for processors. `compiled/decoding.py` calls this; `engines/cache.py` says the same in
 * torch, and tests hold both to one result. LOW is the type of cached keys and values as well.
 */
#include "common.h"

/* x weight^T + base, into `out` or (if that is NULL) `low`. base: NULL, or rows base_row apart (0: one for all). */
void linear(const LOW *x, const LOW *weight, const REAL *base, int64_t base_row, REAL *out, LOW *low, int64_t rows,
            int64_t inputs, int64_t outputs, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads((int)threads)
    for (int64_t p = 0; p < outputs / PANEL; p++)
        panel_product(x, rows, inputs, weight + p * PANEL * inputs, base ? base + p * PANEL : base, base_row,
                      out ? out + p * PANEL : out, low ? low + p * PANEL : low, outputs);
}

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
