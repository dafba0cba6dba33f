/* Attention of rows that belong to any sequences, over one cache, see attention.c. */
#ifndef EDGEDSL_ATTENTION_H
#define EDGEDSL_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

enum { LANES = 8, MAX_HEAD_DIM = 256 }; /* a head's width is a multiple of LANES */

typedef struct {
  const float *packed;     /* [rows][(heads + 2 * kv heads) * head_dim]: queries, keys, values */
  float *keys, *values;    /* [slots][kv heads][capacity][head_dim] */
  const int64_t *slots;    /* [rows] */
  const int64_t *positions; /* [rows] */
  const float *cos, *sin;  /* [positions][half]; null: nothing is rotated */
  float *output;           /* [rows][heads * head_dim] */
  size_t num_rows, num_heads, num_kv_heads, head_dim, capacity;
  size_t half;             /* of the channels that are rotated */
  size_t window;           /* positions that a row sees, itself among them; 0: all */
  float scale;
} Attention;

/* Rotate the keys of all rows, and put keys and values into the cache. */
void append_rows(const Attention *attention);

/* One head of one row, of which append_rows has taken care. */
void attend(const Attention *attention, size_t row, size_t head);

#endif
