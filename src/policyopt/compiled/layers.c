/* What the layers of a decoder do beside matrix products, forward and backward, for processors. `compiled/layers.py` calls
 * this and says the same in torch; tests hold both to one result. Sums are of REAL, what layers pass on is LOW.
 */
#include "common.h"

enum { BLOCK = 48 }; /* queries at a time */
#define UP(count, to) (((count) + (to) - 1) / (to) * (to))

/* Sequences stand in one flat row of tokens, in clusters: the sequences first[c] .. first[c + 1] - 1, all of which attend
 * to the first one of them (a context that they share) and to themselves. A cluster is one task, so that the slopes of its
 * context are added up in one order, whatever the number of threads. */
typedef struct {
    int64_t clusters, groups, repeats, dim;
    int64_t threads, room; /* room: bytes of scratch of a thread */
    double scale;
    const int64_t *first;          /* clusters + 1 */
    const int64_t *begin, *length; /* of sequences */
    const LOW *query, *key, *value;    /* tokens, heads or groups, dim */
    const REAL *cosine, *sine;         /* tokens, dim; both halves alike */
    LOW *out;                          /* tokens, heads, dim */
    REAL *mass;                        /* tokens, heads: log of the sum of exponentials */
    const LOW *by_out;                 /* from here on: backward */
    LOW *by_query, *by_key, *by_value;
    char *scratch;
} Attention;

typedef struct {
    int64_t keys, width;        /* that fit; dim up to whole panels */
    LOW *keys_by_dim, *keys_by_key, *values_by_dim, *values_by_key; /* as weights: (outputs) by (inputs) swapped */
    LOW *rows, *slopes;         /* BLOCK, dim: turned queries, slopes of the output */
    LOW *rows_by_row, *slopes_by_row;
    LOW *weights, *weights_turned, *bends_turned, *other; /* BLOCK, keys; keys, BLOCK; BLOCK, keys; keys */
    REAL *score, *bend;         /* BLOCK, keys */
    REAL *by_key, *by_value;    /* keys, width */
    REAL *sum;                  /* BLOCK, width */
} Room;

static char *take(char **place, int64_t bytes) {
    char *found = *place;
    *place += UP(bytes, 64);
    return found;
}

/* Where everything stands from `place` on; the bytes of it all. */
static int64_t lay_out(Room *r, char *place, int64_t keys, int64_t dim) {
    char *begin = place;
    const int64_t low = sizeof(LOW), real = sizeof(REAL), width = UP(dim, PANEL);
    r->keys = keys, r->width = width;
    LOW **packed[] = {&r->keys_by_dim, &r->keys_by_key, &r->values_by_dim, &r->values_by_key};
    for (int i = 0; i < 4; i++) *packed[i] = (LOW *)take(&place, keys * width * low);
    LOW **rows[] = {&r->rows, &r->slopes, &r->rows_by_row, &r->slopes_by_row};
    for (int i = 0; i < 4; i++) *rows[i] = (LOW *)take(&place, BLOCK * width * low);
    LOW **weights[] = {&r->weights, &r->weights_turned, &r->bends_turned};
    for (int i = 0; i < 3; i++) *weights[i] = (LOW *)take(&place, BLOCK * keys * low);
    r->other = (LOW *)take(&place, keys * low);
    r->score = (REAL *)take(&place, BLOCK * keys * real), r->bend = (REAL *)take(&place, BLOCK * keys * real);
    r->by_key = (REAL *)take(&place, keys * width * real), r->by_value = (REAL *)take(&place, keys * width * real);
    r->sum = (REAL *)take(&place, BLOCK * width * real);
    return place - begin;
}

/* Bytes that a thread needs where the longest context and the longest other sequence have so many tokens. */
int64_t attention_room(int64_t context, int64_t own, int64_t dim) {
    Room room;
    return lay_out(&room, NULL, UP(context, PANEL) + UP(own, PANEL), dim);
}

/* Rows as weights whose outputs are the rows, zeros up to whole panels. */
INLINE void pack_rows(const LOW *x, int64_t step, int64_t count, int64_t dim, LOW *out) {
    for (int64_t c = 0; c < UP(count, PANEL); c++) {
        LOW *place = out + c / PANEL * PANEL * dim + c % PANEL * PAIR;
        for (int64_t d = 0; d < dim; d += PAIR)
            for (int i = 0; i < PAIR; i++) place[d * PANEL + i] = c < count ? x[c * step + d + i] : 0;
    }
}

/* One row of PAIR rows side by side, of a panel's columns. */
INLINE void interleave(const LOW *restrict a, const LOW *restrict b, int64_t count, LOW *restrict out) {
    for (int64_t d = 0; d < count; d++) {
        out[d * PAIR] = a[d];
        if (PAIR == 2) out[d * PAIR + 1] = b[d];
    }
    for (int64_t d = count * PAIR; d < PANEL * PAIR; d++) out[d] = 0;
}

/* Rows as weights whose inputs are the rows (`capacity` of them), zeros up to `rows` of them and to whole panels. */
INLINE void pack_columns(const LOW *x, int64_t step, int64_t count, int64_t rows, int64_t dim, int64_t capacity, LOW *out) {
    static const LOW none[PANEL];
    for (int64_t c = 0; c < rows; c += PAIR)
        for (int64_t p = 0; p < dim; p += PANEL) {
            const LOW *a = c < count ? x + c * step + p : none, *b = c + 1 < count ? x + (c + 1) * step + p : none;
            LOW *place = out + p * capacity + c * PANEL;
            if (dim - p >= PANEL) interleave(a, b, PANEL, place);
            else interleave(a, b, dim - p, place);
        }
}

static void product(const LOW *x, int64_t rows, int64_t inputs, const LOW *weight, int64_t capacity, int64_t outputs,
                    const REAL *base, REAL *out, int64_t out_row) {
    for (int64_t p = 0; p < outputs; p += PANEL)
        panel_product(x, rows, inputs, weight + p * capacity, base ? base + p : base, out_row, out + p, NULL, out_row);
}

/* Rotary positions of a row, times `scale`. */
INLINE void turn(const LOW *restrict x, const REAL *restrict cosine, const REAL *restrict sine, REAL scale,
                 LOW *restrict out, int64_t dim) {
    const int64_t half = dim / 2;
    for (int64_t j = 0; j < half; j++) {
        const REAL a = up(x[j]), b = up(x[j + half]), c = cosine[j] * scale, s = sine[j] * scale;
        out[j] = down(a * c - b * s);
        out[j + half] = down(b * c + a * s);
    }
}

/* Back again: the slope of what was turned. */
INLINE void turn_back(const REAL *restrict x, const REAL *restrict cosine, const REAL *restrict sine, REAL scale,
                      LOW *restrict out, int64_t dim) {
    const int64_t half = dim / 2;
    for (int64_t j = 0; j < half; j++) {
        const REAL a = x[j], b = x[j + half], c = cosine[j] * scale, s = sine[j] * scale;
        out[j] = down(a * c + b * s);
        out[j + half] = down(b * c - a * s);
    }
}

/* Keys and values of a sequence of group g, packed from column `base` on. */
INLINE void pack_sequence(const Attention *a, const Room *r, int64_t sequence, int64_t g, int64_t base, int backward) {
    const int64_t dim = a->dim, groups = a->groups, length = a->length[sequence], begin = a->begin[sequence];
    const LOW *keys = a->key + (begin * groups + g) * dim, *values = a->value + (begin * groups + g) * dim;
    const int64_t step = groups * dim, rows = UP(length, PANEL);
    LOW *turned = (LOW *)(r->by_key + base * r->width); /* free until slopes are added up */
    for (int64_t c = 0; c < length; c++)
        turn(keys + c * step, a->cosine + (begin + c) * dim, a->sine + (begin + c) * dim, 1, turned + c * dim, dim);
    pack_rows(turned, dim, length, dim, r->keys_by_dim + base * dim);
    pack_columns(values, step, length, rows, dim, r->keys, r->values_by_key + base * PANEL);
    if (!backward) return;
    pack_columns(turned, dim, length, rows, dim, r->keys, r->keys_by_key + base * PANEL);
    pack_rows(values, step, length, dim, r->values_by_dim + base * dim);
}

/* One block of queries of one head: `count` rows from `row` on of a sequence whose own keys begin at column `base`, behind
 * `context` keys of another one. */
typedef struct {
    int64_t token, head, row, count, base, context, columns;
} Block;

INLINE void block_scores(const Attention *a, const Room *r, Block b) {
    const int64_t dim = a->dim, heads = a->groups * a->repeats;
    for (int64_t m = 0; m < b.count; m++) {
        const int64_t token = b.token + m;
        const LOW *query = a->query + (token * heads + b.head) * dim;
        turn(query, a->cosine + token * dim, a->sine + token * dim, a->scale, r->rows + m * dim, dim);
    }
    product(r->rows, b.count, dim, r->keys_by_dim, dim, b.columns, NULL, r->score, b.columns);
}

INLINE void forward_block(const Attention *a, const Room *r, Block b) {
    const int64_t dim = a->dim, heads = a->groups * a->repeats, columns = b.columns;
    block_scores(a, r, b);
    REAL inverse[BLOCK];
    for (int64_t m = 0; m < b.count; m++) {
        REAL *restrict score = r->score + m * columns, most = -INFINITY, total = 0;
        LOW *restrict weight = r->weights + m * columns;
        const int64_t behind = b.base + b.row + m + 1; /* the first column that is not seen */
        for (int64_t c = b.context; c < b.base; c++) score[c] = -INFINITY;
        for (int64_t c = behind; c < columns; c++) score[c] = -INFINITY;
#pragma omp simd reduction(max : most)
        for (int64_t c = 0; c < columns; c++) most = score[c] > most ? score[c] : most;
        for (int64_t c = 0; c < columns; c++) score[c] = EXP(score[c] - most);
        for (int64_t c = b.context; c < b.base; c++) score[c] = 0;
        for (int64_t c = behind; c < columns; c++) score[c] = 0;
        for (int64_t c = 0; c < columns; c++) total += score[c];
        for (int64_t c = 0; c < columns; c++) weight[c] = down(score[c]);
        inverse[m] = 1 / total;
        a->mass[(b.token + m) * heads + b.head] = most + log(total);
    }
    product(r->weights, b.count, columns, r->values_by_key, r->keys, r->width, NULL, r->sum, r->width);
    for (int64_t m = 0; m < b.count; m++) {
        LOW *out = a->out + ((b.token + m) * heads + b.head) * dim;
        for (int64_t d = 0; d < dim; d++) out[d] = down(r->sum[m * r->width + d] * inverse[m]);
    }
}

INLINE void backward_block(const Attention *a, const Room *r, Block b) {
    const int64_t dim = a->dim, heads = a->groups * a->repeats, columns = b.columns, inputs = UP(b.count, PAIR);
    block_scores(a, r, b);
    for (int64_t m = 0; m < b.count; m++)
        memcpy(r->slopes + m * dim, a->by_out + ((b.token + m) * heads + b.head) * dim, dim * sizeof(LOW));
    product(r->slopes, b.count, dim, r->values_by_dim, dim, columns, NULL, r->bend, columns);
    for (int64_t m = 0; m < b.count; m++) {
        REAL *restrict score = r->score + m * columns, *restrict bend = r->bend + m * columns, common = 0;
        const int64_t place = (b.token + m) * heads + b.head, behind = b.base + b.row + m + 1;
        const LOW *restrict out = a->out + place * dim, *restrict slope = r->slopes + m * dim;
        for (int64_t d = 0; d < dim; d++) common += up(out[d]) * up(slope[d]);
        const REAL mass = a->mass[place];
        for (int64_t c = 0; c < columns; c++) score[c] = EXP(score[c] - mass);
        for (int64_t c = behind; c < columns; c++) score[c] = 0;
        for (int64_t c = 0; c < columns; c++) bend[c] = score[c] * (bend[c] - common);
        LOW *restrict low = r->weights + m * columns, *restrict other = r->other;
        for (int64_t c = 0; c < columns; c++) low[c] = down(bend[c]);
        for (int64_t c = 0; c < columns; c++) other[c] = down(score[c]);
        for (int64_t c = 0; c < columns; c++) r->bends_turned[c * inputs + m] = low[c];
        for (int64_t c = 0; c < columns; c++) r->weights_turned[c * inputs + m] = other[c];
    }
    if (inputs > b.count)
        for (int64_t c = 0; c < columns; c++)
            r->bends_turned[c * inputs + b.count] = r->weights_turned[c * inputs + b.count] = 0;
    pack_columns(r->rows, dim, b.count, inputs, dim, inputs, r->rows_by_row);
    pack_columns(r->slopes, dim, b.count, inputs, dim, inputs, r->slopes_by_row);
    product(r->bends_turned, columns, inputs, r->rows_by_row, inputs, r->width, r->by_key, r->by_key, r->width);
    product(r->weights_turned, columns, inputs, r->slopes_by_row, inputs, r->width, r->by_value, r->by_value, r->width);
    product(r->weights, b.count, columns, r->keys_by_key, r->keys, r->width, NULL, r->sum, r->width);
    for (int64_t m = 0; m < b.count; m++) {
        const int64_t token = b.token + m;
        LOW *by_query = a->by_query + (token * heads + b.head) * dim;
        turn_back(r->sum + m * r->width, a->cosine + token * dim, a->sine + token * dim, a->scale, by_query, dim);
    }
}

INLINE void sequence_blocks(const Attention *a, const Room *r, int64_t sequence, int64_t g, int64_t base, int64_t context,
                            const int backward) {
    const int64_t length = a->length[sequence], begin = a->begin[sequence];
    for (int64_t i = 0; i < a->repeats; i++)
        for (int64_t row = 0; row < length; row += BLOCK) {
            const int64_t count = length - row < BLOCK ? length - row : BLOCK;
            const Block b = {begin + row, g * a->repeats + i, row, count, base, context, UP(base + row + count, PANEL)};
            if (backward) backward_block(a, r, b);
            else forward_block(a, r, b);
        }
}

/* The slopes of a sequence's keys and values, added up from column `base` on, in their place. */
INLINE void put_slopes(const Attention *a, const Room *r, int64_t sequence, int64_t g, int64_t base) {
    const int64_t dim = a->dim, length = a->length[sequence], begin = a->begin[sequence];
    for (int64_t c = 0; c < length; c++) {
        const int64_t token = begin + c, place = (token * a->groups + g) * dim;
        const REAL *by_key = r->by_key + (base + c) * r->width, *by_value = r->by_value + (base + c) * r->width;
        turn_back(by_key, a->cosine + token * dim, a->sine + token * dim, 1, a->by_key + place, dim);
        for (int64_t d = 0; d < dim; d++) a->by_value[place + d] = down(by_value[d]);
    }
}

INLINE void no_slopes(const Room *r, int64_t from, int64_t count) {
    memset(r->by_key + from * r->width, 0, count * r->width * sizeof(REAL));
    memset(r->by_value + from * r->width, 0, count * r->width * sizeof(REAL));
}

INLINE void cluster(const Attention *a, const Room *r, int64_t c, int64_t g, const int backward) {
    const int64_t first = a->first[c], behind = a->first[c + 1];
    const int64_t context = a->length[first], base = UP(context, PANEL);
    pack_sequence(a, r, first, g, 0, backward);
    if (backward) no_slopes(r, 0, base);
    sequence_blocks(a, r, first, g, 0, 0, backward);
    for (int64_t s = first + 1; s < behind; s++) {
        pack_sequence(a, r, s, g, base, backward);
        if (backward) no_slopes(r, base, UP(a->length[s], PANEL));
        sequence_blocks(a, r, s, g, base, context, backward);
        if (backward) put_slopes(a, r, s, g, base);
    }
    if (backward) put_slopes(a, r, first, g, 0);
}

INLINE void clusters(const Attention *a, const int backward, int64_t keys) {
#pragma omp parallel num_threads((int)a->threads)
    {
        Room room;
        lay_out(&room, a->scratch + omp_get_thread_num() * a->room, keys, a->dim);
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < a->clusters * a->groups; task++)
            cluster(a, &room, task / a->groups, task % a->groups, backward);
    }
}

/* Rotary positions and causal attention within clusters. keys: columns, as for `attention_room`. */
void attention(const Attention *a, int64_t context, int64_t own) {
    clusters(a, 0, UP(context, PANEL) + UP(own, PANEL));
}

void attention_backward(const Attention *a, int64_t context, int64_t own) {
    clusters(a, 1, UP(context, PANEL) + UP(own, PANEL));
}

/* by_sum: NULL, or the slope of the sum itself. by_weight: (threads, size), parts of the weight's slope. */
void add_norm_backward(const REAL *sum, const REAL *inverse, const REAL *weight, const LOW *low, const REAL *high,
                       const REAL *by_sum, REAL *by_x, LOW *by_added, REAL *by_weight, int64_t rows, int64_t size,
                       int64_t threads) {
#pragma omp parallel num_threads((int)threads)
    {
        REAL *part = by_weight + omp_get_thread_num() * size;
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            const REAL *x = sum + r * size;
            REAL *out = by_x + r * size, scale = inverse[r], common = 0;
            if (low) for (int64_t d = 0; d < size; d++) out[d] = up(low[r * size + d]);
            else for (int64_t d = 0; d < size; d++) out[d] = high[r * size + d];
            for (int64_t d = 0; d < size; d++) {
                const REAL share = out[d] * x[d] * scale;
                part[d] += share;
                common += share * weight[d];
            }
            common *= scale * scale / size;
            for (int64_t d = 0; d < size; d++) out[d] = out[d] * weight[d] * scale - x[d] * common;
            if (by_sum) for (int64_t d = 0; d < size; d++) out[d] += by_sum[r * size + d];
            if (by_added) for (int64_t d = 0; d < size; d++) by_added[r * size + d] = down(out[d]);
        }
    }
}

/* Of silu(gate) * other. */
void gated_silu_backward(const LOW *gate, const LOW *other, const LOW *by_out, LOW *by_gate, LOW *by_other, int64_t count,
                         int64_t threads) {
#pragma omp parallel for simd schedule(static) num_threads((int)threads)
    for (int64_t i = 0; i < count; i++) {
        const REAL x = up(gate[i]), slope = up(by_out[i]), p = 1 / (1 + EXP(-x));
        by_gate[i] = down(slope * up(other[i]) * p * (1 + x * (1 - p)));
        by_other[i] = down(slope * x * p);
    }
}
