/* Each row names its sequence (a slot of the cache) and its position there, and sees the positions up to it. So rows of
 * several sequences, any number of each, are one call: prompts, single tokens, drafts.
 *
 * Scores are taken CHUNK positions at a time with the running maximum of Milakov and Gimelshein (arXiv 1805.02867); chunks
 * begin at a row's first position, so that the sums are added in the same order whatever else is in the call. */
#include "attention.h"

#include "vectors.h"

#include <float.h>
#include <string.h>

enum { CHUNK = 64 };

/* Halves of the first 2 * half channels turned by the angles of a position (as transformers lays them out). */
static void rotate(const float *restrict in, const float *restrict cos, const float *restrict sin, size_t half,
                   size_t head_dim, float *restrict out) {
  for (size_t i = 0; i < half; i++) {
    float low = in[i], high = in[half + i];
    out[i] = low * cos[i] - high * sin[i];
    out[half + i] = high * cos[i] + low * sin[i];
  }
  memcpy(out + 2 * half, in + 2 * half, (head_dim - 2 * half) * sizeof(float));
}

static void place(const Attention *a, const float *head, int64_t position, float *out) {
  if (a->cos) {
    size_t angles = (size_t)position * a->half;
    rotate(head, a->cos + angles, a->sin + angles, a->half, a->head_dim, out);
  } else {
    memcpy(out, head, a->head_dim * sizeof(float));
  }
}

void append_rows(const Attention *a) {
  size_t width = (a->num_heads + 2 * a->num_kv_heads) * a->head_dim;
  for (size_t row = 0; row < a->num_rows; row++) {
    const float *keys = a->packed + row * width + a->num_heads * a->head_dim;
    for (size_t head = 0; head < a->num_kv_heads; head++) {
      size_t line = ((size_t)a->slots[row] * a->num_kv_heads + head) * a->capacity + (size_t)a->positions[row];
      const float *key = keys + head * a->head_dim, *value = key + a->num_kv_heads * a->head_dim;
      place(a, key, a->positions[row], a->keys + line * a->head_dim);
      memcpy(a->values + line * a->head_dim, value, a->head_dim * sizeof(float));
    }
  }
}

/* Products of a query with four keys that follow each other. */
static __m128 four_scores(const float *query, const float *keys, size_t head_dim) {
  __m256 sums[4];
  for (int k = 0; k < 4; k++) sums[k] = _mm256_setzero_ps();
  for (size_t i = 0; i < head_dim; i += LANES) {
    __m256 part = _mm256_load_ps(query + i);
    for (int k = 0; k < 4; k++)
      sums[k] = _mm256_fmadd_ps(part, _mm256_loadu_ps(keys + (size_t)k * head_dim + i), sums[k]);
  }
  __m256 left = _mm256_hadd_ps(sums[0], sums[1]), right = _mm256_hadd_ps(sums[2], sums[3]);
  __m256 all = _mm256_hadd_ps(left, right);
  return _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
}

/* Scores of `count` keys, in whole vectors: those behind the last are the least there is. Returns the largest. Where one
 * is not finite, `total` stops being a number: its weight alone would not tell. */
static float score_chunk(const float *query, const float *keys, size_t head_dim, size_t count, float scale,
                         float *scores, float *total) {
  const __m128 least = _mm_set1_ps(-FLT_MAX), factor = _mm_set1_ps(scale);
  __m128 top = least, check = _mm_setzero_ps();
  size_t i = 0;
  for (; i + 4 <= count; i += 4) {
    __m128 four = _mm_mul_ps(four_scores(query, keys + i * head_dim, head_dim), factor);
    _mm_store_ps(scores + i, four);
    top = _mm_max_ps(top, four);
    check = _mm_fmadd_ps(four, _mm_setzero_ps(), check);
  }
  if (i < count) { /* what lies behind the last key may not be there */
    float last[4 * MAX_HEAD_DIM], found[4];
    memcpy(last, keys + i * head_dim, (count - i) * head_dim * sizeof(float));
    memset(last + (count - i) * head_dim, 0, (4 - (count - i)) * head_dim * sizeof(float));
    _mm_storeu_ps(found, _mm_mul_ps(four_scores(query, last, head_dim), factor));
    for (size_t k = count - i; k < 4; k++) found[k] = -FLT_MAX;
    _mm_store_ps(scores + i, _mm_loadu_ps(found));
    top = _mm_max_ps(top, _mm_loadu_ps(found));
    check = _mm_fmadd_ps(_mm_loadu_ps(found), _mm_setzero_ps(), check);
    i += 4;
  }
  if (i % LANES) _mm_store_ps(scores + i, least);
  check = _mm_hadd_ps(check, check);
  *total += _mm_cvtss_f32(_mm_hadd_ps(check, check));
  top = _mm_max_ps(top, _mm_movehl_ps(top, top));
  return _mm_cvtss_f32(_mm_max_ss(top, _mm_movehdup_ps(top)));
}

/* Scores become weights; returns their sum. */
static float weigh_chunk(float *scores, size_t count, float top) {
  __m256 sum = _mm256_setzero_ps();
  for (size_t i = 0; i < count; i += LANES) {
    __m256 weight = exponential(_mm256_sub_ps(_mm256_load_ps(scores + i), _mm256_set1_ps(top)));
    _mm256_store_ps(scores + i, weight);
    sum = _mm256_add_ps(sum, weight);
  }
  return sum_of(sum);
}

/* Adds `count` weighted values to NUM vectors of the sums. */
#define ADD_VALUES(NUM)                                                                                              \
  static void add_values_##NUM(const float *weights, const float *values, size_t head_dim, size_t count,             \
                               float *sums) {                                                                        \
    __m256 found[NUM];                                                                                               \
    for (int j = 0; j < NUM; j++) found[j] = _mm256_load_ps(sums + j * LANES);                                       \
    for (size_t i = 0; i < count; i++) {                                                                             \
      __m256 weight = _mm256_broadcast_ss(weights + i);                                                              \
      for (int j = 0; j < NUM; j++)                                                                                  \
        found[j] = _mm256_fmadd_ps(weight, _mm256_loadu_ps(values + i * head_dim + j * LANES), found[j]);            \
    }                                                                                                                \
    for (int j = 0; j < NUM; j++) _mm256_store_ps(sums + j * LANES, found[j]);                                       \
  }
ADD_VALUES(8)
ADD_VALUES(1)

static void add_values(const float *weights, const float *values, size_t head_dim, size_t count, float *sums) {
  size_t part = 0;
  for (; part + 8 * LANES <= head_dim; part += 8 * LANES)
    add_values_8(weights, values + part, head_dim, count, sums + part);
  for (; part < head_dim; part += LANES) add_values_1(weights, values + part, head_dim, count, sums + part);
}

static void scale_by(float *values, size_t count, float factor) {
  for (size_t i = 0; i < count; i++) values[i] *= factor;
}

static float power(float exponent) { return _mm256_cvtss_f32(exponential(_mm256_set1_ps(exponent))); }

void attend(const Attention *a, size_t row, size_t head) {
  _Alignas(32) float query[MAX_HEAD_DIM], sums[MAX_HEAD_DIM], scores[CHUNK];
  size_t width = (a->num_heads + 2 * a->num_kv_heads) * a->head_dim;
  size_t kv_head = head / (a->num_heads / a->num_kv_heads), end = (size_t)a->positions[row] + 1;
  size_t first = a->window && end > a->window ? end - a->window : 0;
  size_t line = ((size_t)a->slots[row] * a->num_kv_heads + kv_head) * a->capacity;
  float top = -FLT_MAX, total = 0;
  place(a, a->packed + row * width + head * a->head_dim, a->positions[row], query);
  memset(sums, 0, a->head_dim * sizeof(float));
  for (size_t start = first; start < end; start += CHUNK) {
    size_t count = end - start < CHUNK ? end - start : CHUNK, from = (line + start) * a->head_dim;
    float highest = score_chunk(query, a->keys + from, a->head_dim, count, a->scale, scores, &total);
    if (highest > top) {
      float factor = power(top - highest);
      scale_by(sums, a->head_dim, factor);
      total *= factor;
      top = highest;
    }
    total += weigh_chunk(scores, count, top);
    add_values(scores, a->values + from, a->head_dim, count, sums);
  }
  scale_by(sums, a->head_dim, 1.0f / total);
  memcpy(a->output + (row * a->num_heads + head) * a->head_dim, sums, a->head_dim * sizeof(float));
}
