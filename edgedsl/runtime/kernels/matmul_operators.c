/* Products with weights of 4 bits:
 *
 *   MatMul4Bits          (input, weights) -> product
 *   NormMatMul4Bits      (input, weights, norm) -> product
 *   SkipNormMatMul4Bits  (input, weights, norm, skip) -> product, stream
 *
 * input, skip: fp32 [..., K]; stream is their sum; norm: fp32 [K], of an RMSNorm before the product; weights: uint8
 * [panels, blocks, BLOCK_BYTES], see products.h; product: fp32 [..., N]. Attributes: integers K, N, and is_gated: whether
 * a panel holds 8 outputs and their 8 gates (SiLU); float epsilon, of the norm. */
#include "operator.h"
#include "products.h"

enum { INPUT, WEIGHTS, NORM, SKIP };
enum { PRODUCT, STREAM };
enum { MAX_CHANNELS = (1 << 24) - 1 }; /* sizes of weights fit into 64 bits then */

typedef struct {
  const OrtApi *api;
  size_t num_inputs;           /* of the operator */
  int64_t width, num_channels; /* K and N */
  int64_t is_gated;
  float epsilon;
} Kernel;

typedef struct {
  const Activations *rows;
  const uint8_t *weights;
  float *output;
  size_t num_channels;
  int is_gated;
} Product;

static void run_panel(void *product, size_t panel) {
  const Product *p = product;
  multiply_panel(p->rows, p->weights, panel, p->is_gated, p->output, p->num_channels);
}

/* The rows, and where their stream goes if the operator has one; `input` keeps the shape. */
static OrtStatus *source_of(const Kernel *kernel, OrtKernelContext *context, Tensor *input, Source *out) {
  const OrtApi *api = kernel->api;
  Tensor norm, skip;
  size_t width = (size_t)kernel->width;
  TRY(input_tensor(api, context, INPUT, input));
  if (input->num_dims < 1 || input->dims[input->num_dims - 1] != kernel->width)
    return failure(api, "the input's last dimension is not K");
  *out = (Source){.input = input->data, .num_rows = input->num_elements / width, .width = width, .epsilon = kernel->epsilon};
  if (kernel->num_inputs > NORM) {
    TRY(input_tensor(api, context, NORM, &norm));
    if (norm.num_elements != width) return failure(api, "the norm does not have K weights");
    out->norm = norm.data;
  }
  if (kernel->num_inputs > SKIP) {
    TRY(input_tensor(api, context, SKIP, &skip));
    if (skip.num_elements != input->num_elements) return failure(api, "input and skip are not of one size");
    out->skip = skip.data;
    TRY(output_data(api, context, STREAM, input->dims, input->num_dims, &out->stream));
  }
  return NULL;
}

static OrtStatus *compute(void *op_kernel, OrtKernelContext *context) {
  const Kernel *kernel = op_kernel;
  const OrtApi *api = kernel->api;
  Tensor input, weights;
  Source source;
  Product product = {.num_channels = (size_t)kernel->num_channels, .is_gated = kernel->is_gated != 0};
  size_t of_panel = product.is_gated ? PANEL / 2 : PANEL;
  size_t num_panels = (product.num_channels + of_panel - 1) / of_panel;
  size_t num_blocks = ((size_t)kernel->width + BLOCK - 1) / BLOCK;
  TRY(source_of(kernel, context, &input, &source));
  TRY(input_tensor(api, context, WEIGHTS, &weights));
  if (weights.num_elements != num_panels * num_blocks * BLOCK_BYTES)
    return failure(api, "the weights do not have the size of K and N");
  product.weights = weights.data;
  input.dims[input.num_dims - 1] = kernel->num_channels;
  TRY(output_data(api, context, PRODUCT, input.dims, input.num_dims, &product.output));
  if (source.num_rows == 0) return NULL;
  Activations rows;
  if (!quantize_rows(&source, &rows)) return failure(api, "out of memory");
  product.rows = &rows;
  OrtStatus *status = ORT_PARALLEL_FOR(api)(context, run_panel, num_panels, 0, &product);
  release_rows(&rows);
  return status;
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
  Kernel kernel = {.api = api, .num_inputs = operator_num_inputs(op)};
  TRY(ORT_INTEGER_ATTRIBUTE(api)(info, "K", &kernel.width));
  TRY(ORT_INTEGER_ATTRIBUTE(api)(info, "N", &kernel.num_channels));
  TRY(ORT_INTEGER_ATTRIBUTE(api)(info, "is_gated", &kernel.is_gated));
  TRY(ORT_FLOAT_ATTRIBUTE(api)(info, "epsilon", &kernel.epsilon));
  if (kernel.width < 1 || kernel.width > MAX_CHANNELS || kernel.num_channels < 1 || kernel.num_channels > MAX_CHANNELS)
    return failure(api, "K and N have to be positive, and below 2^24");
  return operator_create(api, &kernel, sizeof kernel, out);
}

const Operator MATMUL_OPERATORS[] = {
    {CALLBACKS(create, compute), "MatMul4Bits", WEIGHTS + 1, PRODUCT + 1, 1 << WEIGHTS, 0},
    {CALLBACKS(create, compute), "NormMatMul4Bits", NORM + 1, PRODUCT + 1, 1 << WEIGHTS, 0},
    {CALLBACKS(create, compute), "SkipNormMatMul4Bits", SKIP + 1, STREAM + 1, 1 << WEIGHTS, 0},
};
