/* What edgedsl's operators share: how ONNX Runtime gets to know them, and how they get at their inputs. */
#ifndef EDGEDSL_OPERATOR_H
#define EDGEDSL_OPERATOR_H

#include "ort_abi.h"

enum { MAX_DIMENSIONS = 8 };

/* An operator with this many inputs and outputs; they are fp32 but for the inputs that the masks name. */
typedef struct {
  OrtCustomOp callbacks; /* first: ONNX Runtime hands a pointer to it back */
  const char *name;
  size_t num_inputs, num_outputs;
  unsigned uint8_inputs, int64_inputs; /* bit i: input i is of that type */
} Operator;

#define CALLBACKS(create, compute)                                                                                 \
  {.version = ORT_ABI_VERSION, .GetName = operator_name, .GetExecutionProviderType = operator_provider,            \
   .GetInputType = operator_input_type, .GetInputTypeCount = operator_num_inputs,                                  \
   .GetOutputType = operator_output_type, .GetOutputTypeCount = operator_num_outputs,                              \
   .KernelDestroy = operator_release, .GetInputCharacteristic = operator_default,                                  \
   .GetOutputCharacteristic = operator_default, .GetInputMemoryType = operator_default,                            \
   .CreateKernelV2 = create, .KernelComputeV2 = compute, .GetStartVersion = operator_first_version,                \
   .GetEndVersion = operator_last_version}

const char *operator_name(const OrtCustomOp *op);
const char *operator_provider(const OrtCustomOp *op);
int operator_input_type(const OrtCustomOp *op, size_t index);
int operator_output_type(const OrtCustomOp *op, size_t index);
size_t operator_num_inputs(const OrtCustomOp *op);
size_t operator_num_outputs(const OrtCustomOp *op);
int operator_default(const OrtCustomOp *op, size_t index);
int operator_first_version(const OrtCustomOp *op);
int operator_last_version(const OrtCustomOp *op);
void operator_release(void *kernel);

/* A kernel's memory, filled with `size` bytes. */
OrtStatus *operator_create(const OrtApi *api, const void *kernel, size_t size, void **out);

typedef struct {
  const void *data;
  int64_t dims[MAX_DIMENSIONS];
  size_t num_dims, num_elements;
} Tensor;

OrtStatus *failure(const OrtApi *api, const char *message);
OrtStatus *input_tensor(const OrtApi *api, const OrtKernelContext *context, size_t index, Tensor *out);
OrtStatus *output_data(const OrtApi *api, OrtKernelContext *context, size_t index, const int64_t *dims, size_t num_dims,
                       float **out);

#define TRY(call)                    \
  do {                               \
    OrtStatus *status = (call);      \
    if (status) return status;       \
  } while (0)

extern const Operator MATMUL_OPERATORS[3], ATTENTION_OPERATORS[2];

#endif
