/* The operators of the domain "edgedsl", for ONNX Runtime on x86-64; all of them products with weights of 4 bits.
 *
 *   MatMul4Bits          (input, weights) -> product
 *   NormMatMul4Bits      (input, weights, norm) -> product
 *   SkipNormMatMul4Bits  (input, weights, norm, skip) -> product, stream
 *
 * input, skip: fp32 [..., K]; stream is their sum; norm: fp32 [K], of an RMSNorm before the product; weights: uint8
 * [panels, blocks, BLOCK_BYTES], see products.h; product: fp32 [..., N]. Attributes: integers K, N, and is_gated: whether
 * a panel holds 8 outputs and their 8 gates (SiLU); float epsilon, of the norm. */
#include "ort_abi.h"
#include "products.h"

#include <stdlib.h>

enum { MAX_DIMENSIONS = 8 };
enum { INPUT, WEIGHTS, NORM, SKIP };
enum { PRODUCT, STREAM };

typedef struct {
  OrtCustomOp callbacks; /* first: ONNX Runtime hands a pointer to it back */
  const char *name;
  size_t num_inputs, num_outputs;
} Operator;

typedef struct {
  const OrtApi *api;
  size_t num_inputs;               /* of the operator */
  int64_t width, num_channels;     /* K and N */
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

#define TRY(call)                    \
  do {                               \
    OrtStatus *status = (call);      \
    if (status) return status;       \
  } while (0)

static OrtStatus *input_of(const Kernel *kernel, OrtKernelContext *context, size_t index, const OrtValue **value,
                           const void **data) {
  TRY(ORT_INPUT(kernel->api)(context, index, value));
  return ORT_TENSOR_DATA(kernel->api)((OrtValue *)*value, (void **)data);
}

static OrtStatus *output_of(const Kernel *kernel, OrtKernelContext *context, size_t index, const int64_t *dims,
                            size_t num_dims, float **data) {
  OrtValue *value;
  TRY(ORT_OUTPUT(kernel->api)(context, index, dims, num_dims, &value));
  return ORT_TENSOR_DATA(kernel->api)(value, (void **)data);
}

static OrtStatus *failure(const Kernel *kernel, const char *message) {
  return ORT_CREATE_STATUS(kernel->api)(ORT_FAIL, message);
}

/* Dimensions of the input and how many rows it holds. */
static OrtStatus *shape_of(const Kernel *kernel, const OrtValue *value, int64_t *dims, size_t *num_dims,
                           size_t *num_rows) {
  const OrtApi *api = kernel->api;
  OrtTensorTypeAndShapeInfo *info;
  TRY(ORT_TYPE_AND_SHAPE(api)(value, &info));
  OrtStatus *status = ORT_NUM_DIMENSIONS(api)(info, num_dims);
  if (!status && (*num_dims < 1 || *num_dims > MAX_DIMENSIONS))
    status = failure(kernel, "the input needs 1 to 8 dimensions");
  if (!status) status = ORT_DIMENSIONS(api)(info, dims, *num_dims);
  if (!status && dims[*num_dims - 1] != kernel->width) status = failure(kernel, "the input's last dimension is not K");
  ORT_RELEASE_TYPE_AND_SHAPE(api)(info);
  if (status) return status;
  *num_rows = 1;
  for (size_t i = 0; i + 1 < *num_dims; i++) *num_rows *= (size_t)dims[i];
  return NULL;
}

static OrtStatus *check_size(const Kernel *kernel, const OrtValue *value, size_t expected, const char *message) {
  const OrtApi *api = kernel->api;
  OrtTensorTypeAndShapeInfo *info;
  size_t count = 0;
  TRY(ORT_TYPE_AND_SHAPE(api)(value, &info));
  OrtStatus *status = ORT_NUM_ELEMENTS(api)(info, &count);
  ORT_RELEASE_TYPE_AND_SHAPE(api)(info);
  return status || count == expected ? status : failure(kernel, message);
}

/* The rows, and where their stream goes if the operator has one. */
static OrtStatus *source_of(const Kernel *kernel, OrtKernelContext *context, int64_t *dims, size_t *num_dims,
                            Source *out) {
  const OrtValue *value;
  size_t width = (size_t)kernel->width;
  *out = (Source){.width = width, .epsilon = kernel->epsilon};
  TRY(input_of(kernel, context, INPUT, &value, (const void **)&out->input));
  TRY(shape_of(kernel, value, dims, num_dims, &out->num_rows));
  if (kernel->num_inputs > NORM) {
    TRY(input_of(kernel, context, NORM, &value, (const void **)&out->norm));
    TRY(check_size(kernel, value, width, "the norm does not have K weights"));
  }
  if (kernel->num_inputs > SKIP) {
    TRY(input_of(kernel, context, SKIP, &value, (const void **)&out->skip));
    TRY(check_size(kernel, value, out->num_rows * width, "input and skip are not of one size"));
    TRY(output_of(kernel, context, STREAM, dims, *num_dims, &out->stream));
  }
  return NULL;
}

static OrtStatus *compute(void *op_kernel, OrtKernelContext *context) {
  const Kernel *kernel = op_kernel;
  const OrtValue *value;
  Source source;
  Product product = {.num_channels = (size_t)kernel->num_channels, .is_gated = kernel->is_gated != 0};
  int64_t dims[MAX_DIMENSIONS];
  size_t num_dims, of_panel = product.is_gated ? PANEL / 2 : PANEL;
  size_t num_panels = (product.num_channels + of_panel - 1) / of_panel;
  size_t num_blocks = ((size_t)kernel->width + BLOCK - 1) / BLOCK;
  TRY(source_of(kernel, context, dims, &num_dims, &source));
  TRY(input_of(kernel, context, WEIGHTS, &value, (const void **)&product.weights));
  TRY(check_size(kernel, value, num_panels * num_blocks * BLOCK_BYTES, "the weights do not have the size of K and N"));
  dims[num_dims - 1] = kernel->num_channels;
  TRY(output_of(kernel, context, PRODUCT, dims, num_dims, &product.output));
  if (source.num_rows == 0) return NULL;
  Activations rows;
  if (!quantize_rows(&source, &rows)) return failure(kernel, "out of memory");
  product.rows = &rows;
  OrtStatus *status = ORT_PARALLEL_FOR(kernel->api)(context, run_panel, num_panels, 0, &product);
  release_rows(&rows);
  return status;
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
  Kernel made = {.api = api, .num_inputs = ((const Operator *)op)->num_inputs};
  TRY(ORT_INTEGER_ATTRIBUTE(api)(info, "K", &made.width));
  TRY(ORT_INTEGER_ATTRIBUTE(api)(info, "N", &made.num_channels));
  TRY(ORT_INTEGER_ATTRIBUTE(api)(info, "is_gated", &made.is_gated));
  TRY(ORT_FLOAT_ATTRIBUTE(api)(info, "epsilon", &made.epsilon));
  if (made.width < 1 || made.num_channels < 1) return failure(&made, "K and N have to be positive");
  Kernel *kernel = malloc(sizeof *kernel);
  if (!kernel) return failure(&made, "out of memory");
  *kernel = made;
  *out = kernel;
  return NULL;
}

static const char *name_of(const OrtCustomOp *op) { return ((const Operator *)op)->name; }
static size_t num_inputs(const OrtCustomOp *op) { return ((const Operator *)op)->num_inputs; }
static size_t num_outputs(const OrtCustomOp *op) { return ((const Operator *)op)->num_outputs; }
static const char *provider_of(const OrtCustomOp *op) { return (void)op, "CPUExecutionProvider"; }
static int input_type(const OrtCustomOp *op, size_t index) { return (void)op, index == WEIGHTS ? ORT_UINT8 : ORT_FLOAT; }
static int output_type(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, ORT_FLOAT; }
static int always_there(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, 0; }
static int in_memory(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, 0; }
static int first_version(const OrtCustomOp *op) { return (void)op, 1; }
static int last_version(const OrtCustomOp *op) { return (void)op, INT32_MAX; }

#define CALLBACKS                                                                                                  \
  {.version = ORT_ABI_VERSION, .GetName = name_of, .GetExecutionProviderType = provider_of,                        \
   .GetInputType = input_type, .GetInputTypeCount = num_inputs, .GetOutputType = output_type,                      \
   .GetOutputTypeCount = num_outputs, .KernelDestroy = free, .GetInputCharacteristic = always_there,               \
   .GetOutputCharacteristic = always_there, .GetInputMemoryType = in_memory, .CreateKernelV2 = create,             \
   .KernelComputeV2 = compute, .GetStartVersion = first_version, .GetEndVersion = last_version}

static const Operator OPERATORS[] = {
    {CALLBACKS, "MatMul4Bits", WEIGHTS + 1, PRODUCT + 1},
    {CALLBACKS, "NormMatMul4Bits", NORM + 1, PRODUCT + 1},
    {CALLBACKS, "SkipNormMatMul4Bits", SKIP + 1, STREAM + 1},
};

/* Called by ONNX Runtime with the name of this library (SessionOptions.register_custom_ops_library). */
__attribute__((visibility("default"))) OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
  const OrtApi *api = base->GetApi(ORT_ABI_VERSION);
  OrtCustomOpDomain *domain;
  TRY(ORT_CREATE_DOMAIN(api)("edgedsl", &domain));
  for (size_t i = 0; i < sizeof OPERATORS / sizeof *OPERATORS; i++)
    TRY(ORT_ADD_OPERATOR(api)(domain, &OPERATORS[i].callbacks));
  return ORT_ADD_DOMAIN(api)(options, domain);
}
