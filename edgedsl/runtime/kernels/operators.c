/* The domain "edgedsl" for ONNX Runtime. */
#include "operator.h"

#include <stdlib.h>
#include <string.h>

static const Operator *as_operator(const OrtCustomOp *op) { return (const Operator *)op; }

const char *operator_name(const OrtCustomOp *op) { return as_operator(op)->name; }
const char *operator_provider(const OrtCustomOp *op) { return (void)op, "CPUExecutionProvider"; }
size_t operator_num_inputs(const OrtCustomOp *op) { return as_operator(op)->num_inputs; }
size_t operator_num_outputs(const OrtCustomOp *op) { return as_operator(op)->num_outputs; }
int operator_output_type(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, ORT_FLOAT; }
int operator_default(const OrtCustomOp *op, size_t index) { return (void)op, (void)index, 0; }
int operator_first_version(const OrtCustomOp *op) { return (void)op, 1; }
int operator_last_version(const OrtCustomOp *op) { return (void)op, INT32_MAX; }
void operator_release(void *kernel) { free(kernel); }

int operator_input_type(const OrtCustomOp *op, size_t index) {
  if (as_operator(op)->uint8_inputs >> index & 1) return ORT_UINT8;
  return as_operator(op)->int64_inputs >> index & 1 ? ORT_INT64 : ORT_FLOAT;
}

OrtStatus *failure(const OrtApi *api, const char *message) { return ORT_CREATE_STATUS(api)(ORT_FAIL, message); }

OrtStatus *operator_create(const OrtApi *api, const void *kernel, size_t size, void **out) {
  *out = malloc(size);
  if (!*out) return failure(api, "out of memory");
  memcpy(*out, kernel, size);
  return NULL;
}

OrtStatus *input_tensor(const OrtApi *api, const OrtKernelContext *context, size_t index, Tensor *out) {
  const OrtValue *value;
  OrtTensorTypeAndShapeInfo *info;
  TRY(ORT_INPUT(api)(context, index, &value));
  TRY(ORT_TENSOR_DATA(api)((OrtValue *)value, (void **)&out->data));
  TRY(ORT_TYPE_AND_SHAPE(api)(value, &info));
  OrtStatus *status = ORT_NUM_DIMENSIONS(api)(info, &out->num_dims);
  if (!status && out->num_dims > MAX_DIMENSIONS) status = failure(api, "an input has more than 8 dimensions");
  if (!status) status = ORT_DIMENSIONS(api)(info, out->dims, out->num_dims);
  if (!status) status = ORT_NUM_ELEMENTS(api)(info, &out->num_elements);
  ORT_RELEASE_TYPE_AND_SHAPE(api)(info);
  return status;
}

OrtStatus *output_data(const OrtApi *api, OrtKernelContext *context, size_t index, const int64_t *dims, size_t num_dims,
                       float **out) {
  OrtValue *value;
  TRY(ORT_OUTPUT(api)(context, index, dims, num_dims, &value));
  return ORT_TENSOR_DATA(api)(value, (void **)out);
}

/* Called by ONNX Runtime with the name of this library (SessionOptions.register_custom_ops_library). */
__attribute__((visibility("default"))) OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
  const OrtApi *api = base->GetApi(ORT_ABI_VERSION);
  OrtCustomOpDomain *domain;
  TRY(ORT_CREATE_DOMAIN(api)("edgedsl", &domain));
  for (size_t i = 0; i < sizeof MATMUL_OPERATORS / sizeof *MATMUL_OPERATORS; i++)
    TRY(ORT_ADD_OPERATOR(api)(domain, &MATMUL_OPERATORS[i].callbacks));
  for (size_t i = 0; i < sizeof ATTENTION_OPERATORS / sizeof *ATTENTION_OPERATORS; i++)
    TRY(ORT_ADD_OPERATOR(api)(domain, &ATTENTION_OPERATORS[i].callbacks));
  return ORT_ADD_DOMAIN(api)(options, domain);
}
