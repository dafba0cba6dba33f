/* The part of ONNX Runtime's C interface that a custom operator needs, declared here since its wheels bring no header.
 *
 * The interface only grows (docs of OrtApi: functions are appended, none moves), so a function is known by its place in
 * the table, and what is asked for is version 17, the first with KernelContext_ParallelFor.
 * Source: include/onnxruntime/core/session/onnxruntime_c_api.h, struct OrtApi and struct OrtCustomOp. */
#ifndef EDGEDSL_ORT_ABI_H
#define EDGEDSL_ORT_ABI_H

#include <stddef.h>
#include <stdint.h>

#define ORT_ABI_VERSION 17

typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtTensorTypeAndShapeInfo OrtTensorTypeAndShapeInfo;

typedef void (*OrtFunction)(void);
typedef struct OrtApi {
  OrtFunction functions[275];
} OrtApi;

typedef struct OrtApiBase {
  const OrtApi *(*GetApi)(uint32_t version);
  const char *(*GetVersionString)(void);
} OrtApiBase;

enum { ORT_FAIL = 1, ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_INT64 = 7 };

/* Call number INDEX of the table as a function of these types. */
#define ORT_CALL(api, index, result, ...) ((result(*)(__VA_ARGS__))(api)->functions[index])
#define ORT_CREATE_STATUS(api) ORT_CALL(api, 0, OrtStatus *, int, const char *)
#define ORT_CREATE_DOMAIN(api) ORT_CALL(api, 26, OrtStatus *, const char *, OrtCustomOpDomain **)
#define ORT_ADD_OPERATOR(api) ORT_CALL(api, 27, OrtStatus *, OrtCustomOpDomain *, const struct OrtCustomOp *)
#define ORT_ADD_DOMAIN(api) ORT_CALL(api, 28, OrtStatus *, OrtSessionOptions *, OrtCustomOpDomain *)
#define ORT_TENSOR_DATA(api) ORT_CALL(api, 51, OrtStatus *, OrtValue *, void **)
#define ORT_NUM_DIMENSIONS(api) ORT_CALL(api, 61, OrtStatus *, const OrtTensorTypeAndShapeInfo *, size_t *)
#define ORT_DIMENSIONS(api) ORT_CALL(api, 62, OrtStatus *, const OrtTensorTypeAndShapeInfo *, int64_t *, size_t)
#define ORT_NUM_ELEMENTS(api) ORT_CALL(api, 64, OrtStatus *, const OrtTensorTypeAndShapeInfo *, size_t *)
#define ORT_TYPE_AND_SHAPE(api) ORT_CALL(api, 65, OrtStatus *, const OrtValue *, OrtTensorTypeAndShapeInfo **)
#define ORT_FLOAT_ATTRIBUTE(api) ORT_CALL(api, 85, OrtStatus *, const OrtKernelInfo *, const char *, float *)
#define ORT_INTEGER_ATTRIBUTE(api) ORT_CALL(api, 86, OrtStatus *, const OrtKernelInfo *, const char *, int64_t *)
#define ORT_INPUT(api) ORT_CALL(api, 90, OrtStatus *, const OrtKernelContext *, size_t, const OrtValue **)
#define ORT_OUTPUT(api) \
  ORT_CALL(api, 91, OrtStatus *, OrtKernelContext *, size_t, const int64_t *, size_t, OrtValue **)
#define ORT_RELEASE_TYPE_AND_SHAPE(api) ORT_CALL(api, 99, void, OrtTensorTypeAndShapeInfo *)
#define ORT_PARALLEL_FOR(api) \
  ORT_CALL(api, 274, OrtStatus *, const OrtKernelContext *, void (*)(void *, size_t), size_t, size_t, void *)

/* An operator; ONNX Runtime calls back what is not null. */
typedef struct OrtCustomOp {
  uint32_t version;
  void *(*CreateKernel)(const struct OrtCustomOp *, const OrtApi *, const OrtKernelInfo *);
  const char *(*GetName)(const struct OrtCustomOp *);
  const char *(*GetExecutionProviderType)(const struct OrtCustomOp *);
  int (*GetInputType)(const struct OrtCustomOp *, size_t);
  size_t (*GetInputTypeCount)(const struct OrtCustomOp *);
  int (*GetOutputType)(const struct OrtCustomOp *, size_t);
  size_t (*GetOutputTypeCount)(const struct OrtCustomOp *);
  void (*KernelCompute)(void *, OrtKernelContext *);
  void (*KernelDestroy)(void *);
  int (*GetInputCharacteristic)(const struct OrtCustomOp *, size_t);
  int (*GetOutputCharacteristic)(const struct OrtCustomOp *, size_t);
  int (*GetInputMemoryType)(const struct OrtCustomOp *, size_t);
  int (*GetVariadicInputMinArity)(const struct OrtCustomOp *);
  int (*GetVariadicInputHomogeneity)(const struct OrtCustomOp *);
  int (*GetVariadicOutputMinArity)(const struct OrtCustomOp *);
  int (*GetVariadicOutputHomogeneity)(const struct OrtCustomOp *);
  OrtStatus *(*CreateKernelV2)(const struct OrtCustomOp *, const OrtApi *, const OrtKernelInfo *, void **);
  OrtStatus *(*KernelComputeV2)(void *, OrtKernelContext *);
  OrtStatus *(*InferOutputShapeFn)(const struct OrtCustomOp *, void *);
  int (*GetStartVersion)(const struct OrtCustomOp *);
  int (*GetEndVersion)(const struct OrtCustomOp *);
} OrtCustomOp;

#endif
