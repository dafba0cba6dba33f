/* Products of integers on AVX2, for weights of 4 bits.
 *
 * VPMADDUBSW multiplies 32 pairs of bytes and adds two neighbours into 16 bits. With weights of 8 bits these sums have to
 * be widened to 32 bits at once, which takes as long as the multiplication. A code of 4 bits is 0 to 15 and stands for
 * -8 to 7: the sums of the 16 steps of a block, -8 * 127 * 2 * 16 = -32512 at the least, stay in 16 bits, and are widened
 * once. The lanes wrap around on the way, which does no harm: the sum in the end fits. They begin with what the 8 that is
 * taken off each code comes to (Activations.offsets).
 *
 * A weight is scale * (code - 8) + minimum, both fp16, of its block. A row is rounded to 8 bits by its own largest value
 * in each block, so that what stands beside a row does not change it: sums of integers are exact, and those of blocks are
 * added in the same order however many rows there are. */
#include "products.h"

#include "vectors.h"

#include <immintrin.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
  STEP = 4,                      /* input channels of a multiplication */
  STEPS = BLOCK / STEP,
  CODE_BYTES = BLOCK * PANEL / 2,
  MAX_TILE = 6,                  /* rows at a time; with two vectors of outputs they fill the registers */
  MAX_CHUNK = 48,                /* rows whose sums are kept while the weights go by */
  FEW_ROWS = 12,                 /* two tiles: taking codes out of their halves twice is quicker than keeping them */
  PREFETCHED = 4096              /* bytes ahead; one page, which the hardware's own prefetch does not cross */
};

/* Codes of a step: outputs 0 to 7 in the low halves of 32 bytes, 8 to 15 in the high ones; or a byte each. */
#define FROM_HALVES(codes, step, left, right)                                            \
  __m256i both = _mm256_loadu_si256((const __m256i *)((codes) + 32 * (step)));           \
  __m256i left = _mm256_and_si256(both, _mm256_set1_epi8(15));                           \
  __m256i right = _mm256_and_si256(_mm256_srli_epi16(both, 4), _mm256_set1_epi8(15));
#define FROM_BYTES(codes, step, left, right)                                             \
  __m256i left = _mm256_load_si256((const __m256i *)((codes) + 64 * (step)));            \
  __m256i right = _mm256_load_si256((const __m256i *)((codes) + 64 * (step) + 32));

#define UNROLL _Pragma("clang loop unroll(full)")

/* One block of ROWS rows and a panel, added to `sums` [rows][PANEL]. */
#define TILE(NAME, ROWS, FETCH)                                                                                      \
  static void NAME##_##ROWS(const uint8_t *codes, const float *scales, const float *minima, const int8_t *rows,      \
                            const int32_t *offsets, const float *row_scales, const float *row_sums, float *sums) {   \
    __m256i found[ROWS][2];                                                                                          \
    UNROLL for (int r = 0; r < ROWS; r++) found[r][0] = found[r][1] = _mm256_set1_epi32(offsets[r]);                 \
    _Pragma("clang loop unroll(disable)") for (int step = 0; step < STEPS; step++) {                                 \
      FETCH(codes, step, left, right)                                                                                \
      UNROLL for (int r = 0; r < ROWS; r++) {                                                                        \
        int32_t four;                                                                                                \
        memcpy(&four, rows + r * BLOCK + step * STEP, STEP);                                                         \
        __m256i row = _mm256_set1_epi32(four);                                                                       \
        found[r][0] = _mm256_add_epi16(found[r][0], _mm256_maddubs_epi16(left, row));                                \
        found[r][1] = _mm256_add_epi16(found[r][1], _mm256_maddubs_epi16(right, row));                               \
      }                                                                                                              \
    }                                                                                                                \
    UNROLL for (int r = 0; r < ROWS; r++) {                                                                          \
      __m256 row_scale = _mm256_set1_ps(row_scales[r]), row_sum = _mm256_set1_ps(row_sums[r]);                       \
      UNROLL for (int half = 0; half < 2; half++) {                                                                  \
        float *sum = sums + r * PANEL + 8 * half;                                                                    \
        __m256i wide = _mm256_madd_epi16(found[r][half], _mm256_set1_epi16(1));                                      \
        __m256 scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(wide), _mm256_load_ps(scales + 8 * half));                  \
        __m256 total = _mm256_fmadd_ps(scaled, row_scale, _mm256_load_ps(sum));                                      \
        _mm256_store_ps(sum, _mm256_fmadd_ps(_mm256_load_ps(minima + 8 * half), row_sum, total));                    \
      }                                                                                                              \
    }                                                                                                                \
  }

#define TILES(NAME, FETCH)                                                                       \
  TILE(NAME, 1, FETCH)                                                                           \
  TILE(NAME, 2, FETCH)                                                                           \
  TILE(NAME, 3, FETCH)                                                                           \
  TILE(NAME, 4, FETCH)                                                                           \
  TILE(NAME, 5, FETCH)                                                                           \
  TILE(NAME, 6, FETCH)                                                                           \
  static const Tile NAME[MAX_TILE + 1] = {NULL, NAME##_1, NAME##_2, NAME##_3, NAME##_4, NAME##_5, NAME##_6};

typedef void (*Tile)(const uint8_t *, const float *, const float *, const int8_t *, const int32_t *, const float *,
                     const float *, float *);
TILES(tiles_of_halves, FROM_HALVES)
TILES(tiles_of_bytes, FROM_BYTES)

/* Rows of the next tile: of few rows left, two tiles of like size are quicker than a large and a small one. */
static size_t tile_rows(size_t left) {
  if (left <= MAX_TILE) return left;
  return left < 2 * MAX_TILE - 1 ? (left + 1) / 2 : MAX_TILE;
}

static void unpack_codes(const uint8_t *packed, uint8_t *codes) {
  for (int step = 0; step < STEPS; step++) {
    FROM_HALVES(packed, step, left, right)
    _mm256_store_si256((__m256i *)(codes + 64 * step), left);
    _mm256_store_si256((__m256i *)(codes + 64 * step + 32), right);
  }
}

static void unpack_tables(const uint8_t *packed, float *scales, float *minima) {
  const __m128i *halves = (const __m128i *)(packed + CODE_BYTES);
  for (int i = 0; i < 2; i++) {
    _mm256_store_ps(scales + 8 * i, _mm256_cvtph_ps(_mm_loadu_si128(halves + i)));
    _mm256_store_ps(minima + 8 * i, _mm256_cvtph_ps(_mm_loadu_si128(halves + 2 + i)));
  }
}

/* gate / (1 + exp(-gate)) * up, in place of the gates. */
static void gate_rows(float *sums, size_t num_rows) {
  for (size_t r = 0; r < num_rows; r++) {
    __m256 gate = _mm256_load_ps(sums + r * PANEL), up = _mm256_load_ps(sums + r * PANEL + 8);
    __m256 below = _mm256_add_ps(_mm256_set1_ps(1.0f), exponential(_mm256_sub_ps(_mm256_setzero_ps(), gate)));
    _mm256_store_ps(sums + r * PANEL, _mm256_mul_ps(_mm256_div_ps(gate, below), up));
  }
}

static void store_panel(const float *sums, size_t num_rows, float *output, size_t num_outputs, size_t first,
                        size_t width) {
  if (num_outputs - first < width) width = num_outputs - first;
  for (size_t r = 0; r < num_rows; r++) memcpy(output + r * num_outputs + first, sums + r * PANEL, width * sizeof(float));
}

static void multiply_chunk(const Activations *rows, size_t first_row, size_t num_rows, const uint8_t *weights,
                           float *sums) {
  _Alignas(64) uint8_t bytes[BLOCK * PANEL];
  _Alignas(64) float scales[PANEL], minima[PANEL];
  const Tile *tiles = num_rows <= FEW_ROWS ? tiles_of_halves : tiles_of_bytes;
  memset(sums, 0, num_rows * PANEL * sizeof(float));
  for (size_t block = 0; block < rows->num_blocks; block++) {
    const uint8_t *packed = weights + block * BLOCK_BYTES, *codes = packed;
    for (int i = 0; i < BLOCK_BYTES; i += 64) _mm_prefetch((const char *)(packed + PREFETCHED + i), _MM_HINT_T0);
    unpack_tables(packed, scales, minima);
    if (num_rows > FEW_ROWS) unpack_codes(packed, bytes), codes = bytes;
    for (size_t r = 0; r < num_rows;) {
      size_t here = tile_rows(num_rows - r), at = block * rows->num_rows + first_row + r;
      tiles[here](codes, scales, minima, rows->codes + at * BLOCK, rows->offsets + at, rows->scales + at,
                  rows->sums + at, sums + r * PANEL);
      r += here;
    }
  }
}

void multiply_panel(const Activations *rows, const uint8_t *weights, size_t panel, int is_gated, float *output,
                    size_t num_outputs) {
  _Alignas(64) float sums[MAX_CHUNK * PANEL];
  const uint8_t *packed = weights + panel * rows->num_blocks * BLOCK_BYTES;
  size_t width = is_gated ? PANEL / 2 : PANEL;
  for (size_t first = 0; first < rows->num_rows; first += MAX_CHUNK) {
    size_t left = rows->num_rows - first, here = left < MAX_CHUNK ? left : MAX_CHUNK;
    multiply_chunk(rows, first, here, packed, sums);
    if (is_gated) gate_rows(sums, here);
    store_panel(sums, here, output + first * num_outputs, num_outputs, panel * width, width);
  }
}

/* The largest of 8 magnitudes. Compared as integers: their bits are in the same order, and those of what is not a number
 * come last, so that it is not lost. */
static float largest(__m256i bits) {
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(bits), _mm256_extracti128_si256(bits, 1));
  __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1))));
}

/* 32 values as bytes, in their order. */
static __m256i rounded(const float *values, __m256 inverse) {
  __m256i parts[4];
  for (int i = 0; i < 4; i++) parts[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(values + 8 * i), inverse));
  __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(parts[0], parts[1]), _mm256_packs_epi32(parts[2], parts[3]));
  return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* Sums of the first and the last two of every four codes, two int16. */
static __m128i lane_sums(__m256i first, __m256i second) {
  const __m256i one = _mm256_set1_epi8(1);
  __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16(one, first), _mm256_maddubs_epi16(one, second));
  __m128i four = _mm_add_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
  __m128i two = _mm_add_epi16(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_add_epi16(two, _mm_shuffle_epi32(two, 0xb1));
}

static void quantize_block(const float *values, Activations *out, size_t at) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i top = _mm256_setzero_si256();
  for (int i = 0; i < BLOCK; i += 8) {
    __m256i bits = _mm256_loadu_si256((const __m256i *)(values + i));
    top = _mm256_max_epi32(top, _mm256_and_si256(bits, magnitude));
  }
  float most = largest(top);
  __m256 inverse = _mm256_set1_ps(most > 0 ? 127.0f / most : 0.0f);
  __m256i first = rounded(values, inverse), second = rounded(values + 32, inverse);
  _mm256_store_si256((__m256i *)(out->codes + at * BLOCK), first);
  _mm256_store_si256((__m256i *)(out->codes + at * BLOCK + 32), second);
  __m128i sums = lane_sums(first, second);
  int32_t pair = _mm_cvtsi128_si32(sums);
  out->offsets[at] = _mm_cvtsi128_si32(_mm_sub_epi16(_mm_setzero_si128(), _mm_slli_epi16(sums, 3)));
  out->scales[at] = most / 127.0f;
  out->sums[at] = out->scales[at] * (float)((int16_t)(pair & 0xffff) + (int16_t)(pair >> 16));
}

/* One row of a source in whole blocks: where it lies, or in `out` [blocks * BLOCK], which is zeros behind the last
 * channel. */
static const float *load_row(const Source *source, size_t row, float *out) {
  const float *input = source->input + row * source->width;
  if (source->skip) {
    float *stream = source->stream + row * source->width;
    for (size_t i = 0; i < source->width; i++) stream[i] = input[i] + source->skip[row * source->width + i];
    input = stream;
  }
  if (!source->norm) return source->width % BLOCK ? memcpy(out, input, source->width * sizeof(float)) : input;
  __m256 squares = _mm256_setzero_ps();
  float rest = 0;
  size_t i = 0;
  for (; i + 8 <= source->width; i += 8) {
    __m256 value = _mm256_loadu_ps(input + i);
    squares = _mm256_fmadd_ps(value, value, squares);
  }
  for (; i < source->width; i++) rest += input[i] * input[i];
  float factor = 1.0f / sqrtf((sum_of(squares) + rest) / (float)source->width + source->epsilon);
  for (i = 0; i < source->width; i++) out[i] = input[i] * factor * source->norm[i];
  return out;
}

int quantize_rows(const Source *source, Activations *out) {
  size_t num_blocks = (source->width + BLOCK - 1) / BLOCK, count = num_blocks * source->num_rows;
  size_t padded = num_blocks * BLOCK;
  size_t num_bytes = count * (BLOCK + sizeof(int32_t) + 2 * sizeof(float)) + padded * sizeof(float);
  out->num_rows = source->num_rows;
  out->num_blocks = num_blocks;
  out->codes = aligned_alloc(64, (num_bytes + 63) / 64 * 64);
  if (!out->codes) return 0;
  out->offsets = (int32_t *)(out->codes + count * BLOCK);
  out->scales = (float *)(out->offsets + count);
  out->sums = out->scales + count;
  float *buffer = out->sums + count;
  memset(buffer + source->width, 0, (padded - source->width) * sizeof(float));
  for (size_t row = 0; row < source->num_rows; row++) {
    const float *values = load_row(source, row, buffer);
    for (size_t block = 0; block < num_blocks; block++)
      quantize_block(values + block * BLOCK, out, block * source->num_rows + row);
  }
  return 1;
}

void release_rows(Activations *activations) { free(activations->codes); }
