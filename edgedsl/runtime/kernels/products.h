/* Products of activations fp32 and weights of 4 bits in blocks, see products.c. */
#ifndef EDGEDSL_PRODUCTS_H
#define EDGEDSL_PRODUCTS_H

#include <stddef.h>
#include <stdint.h>

enum {
  BLOCK = 64,                                        /* input channels that share a scale and a minimum */
  PANEL = 16,                                        /* output channels that lie together */
  BLOCK_BYTES = BLOCK * PANEL / 2 + 2 * 2 * PANEL    /* codes, scales and minima of a panel's block: 9 cache lines */
};

/* Rows of activations as integers, with what a block of them adds to every output. */
typedef struct {
  size_t num_rows, num_blocks;
  int8_t *codes;       /* [blocks][rows][BLOCK], -127 to 127 */
  int32_t *offsets;    /* [blocks][rows]: two int16, -8 times the sums of the codes that lanes of a product meet */
  float *scales;       /* [blocks][rows] */
  float *sums;         /* [blocks][rows], of the activations as rounded */
} Activations;

/* Where rows come from: `input` [rows][width]; plus `skip` if there is one, then kept in `stream`; then divided by their
 * root mean square and multiplied by `norm` [width] if there is one (RMSNorm). */
typedef struct {
  const float *input, *skip, *norm;
  float *stream, epsilon;
  size_t num_rows, width;
} Source;

/* 0 where there is no memory. */
int quantize_rows(const Source *source, Activations *out);
void release_rows(Activations *activations);

/* One panel of the product, for all rows.
 *
 * weights: [panels][blocks][BLOCK_BYTES]; output: fp32 [rows][num_outputs]: outputs PANEL * panel and the next; if gated,
 * outputs PANEL / 2 * panel and the next: the first half of a panel, through SiLU, times the second. */
void multiply_panel(const Activations *rows, const uint8_t *weights, size_t panel, int is_gated, float *output,
                    size_t num_outputs);

#endif
