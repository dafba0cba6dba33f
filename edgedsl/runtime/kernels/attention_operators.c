/* Attention with its cache, of rows that may belong to several sequences:
 *
 *   CachedAttention        (packed, past_key, past_value, slots, positions) -> output, present_key, present_value
 *   RotaryCachedAttention  (..., cos, sin) -> the same
 *
 * packed: fp32 [..., rows, (heads + 2 * kv heads) * head_dim]; past and present: fp32 [slots, kv heads, capacity,
 * head_dim], best one memory; slots, positions: int64 [rows]; cos, sin: fp32 [positions, half]. Attributes: integers
 * num_heads, window (positions that a row sees; 0: all); float scale. */
#include "attention.h"
#include "operator.h"

#include <string.h>

enum { PACKED, PAST_KEY, PAST_VALUE, SLOTS, POSITIONS, COS, SIN };
enum { OUTPUT, PRESENT_KEY, PRESENT_VALUE };
enum { MAX_HEADS = 1 << 16 };
enum { INTEGERS = 1 << SLOTS | 1 << POSITIONS };

typedef struct {
  const OrtApi *api;
  size_t num_inputs;
  int64_t num_heads, window;
  float scale;
} Kernel;

static void run_head(void *attention, size_t item) {
  const Attention *a = attention;
  attend(a, item / a->num_heads, item % a->num_heads);
}

static OrtStatus *present_of(const Kernel *kernel, OrtKernelContext *context, size_t index, const Tensor *past,
                             float **out) {
  TRY(output_data(kernel->api, context, index, past->dims, past->num_dims, out));
  if (*out != past->data) memcpy(*out, past->data, past->num_elements * sizeof(float));
  return NULL;
}

static OrtStatus *check_rows(const OrtApi *api, const Attention *a, const Tensor *past, const Tensor *slots,
                             const Tensor *positions, size_t num_angles) {
  if (slots->num_elements != a->num_rows || positions->num_elements != a->num_rows)
    return failure(api, "slots and positions do not have one entry a row");
  for (size_t row = 0; row < a->num_rows; row++) {
    if (a->slots[row] < 0 || a->slots[row] >= past->dims[0]) return failure(api, "a row's slot is not in the cache");
    if (a->positions[row] < 0 || (size_t)a->positions[row] >= a->capacity || (size_t)a->positions[row] >= num_angles)
      return failure(api, "a row's position is beyond the cache or its angles");
  }
  return NULL;
}

static OrtStatus *compute(void *op_kernel, OrtKernelContext *context) {
  const Kernel *kernel = op_kernel;
  const OrtApi *api = kernel->api;
  Tensor packed, key, value, slots, positions, cos = {.dims = {INT64_MAX, 0}}, sin = cos;
  TRY(input_tensor(api, context, PACKED, &packed));
  TRY(input_tensor(api, context, PAST_KEY, &key));
  TRY(input_tensor(api, context, PAST_VALUE, &value));
  TRY(input_tensor(api, context, SLOTS, &slots));
  TRY(input_tensor(api, context, POSITIONS, &positions));
  if (kernel->num_inputs > COS) {
    TRY(input_tensor(api, context, COS, &cos));
    TRY(input_tensor(api, context, SIN, &sin));
    if (cos.num_dims != 2 || sin.num_dims != 2 || memcmp(cos.dims, sin.dims, 2 * sizeof *cos.dims))
      return failure(api, "cos and sin are not of one shape [positions, half]");
  }
  if (key.num_dims != 4 || value.num_dims != 4 || memcmp(key.dims, value.dims, 4 * sizeof *key.dims))
    return failure(api, "past_key and past_value are not of one shape [slots, heads, capacity, head_dim]");
  int64_t kv_heads = key.dims[1], head_dim = key.dims[3];
  int64_t width = (kernel->num_heads + 2 * kv_heads) * head_dim;
  if (kv_heads < 1 || kernel->num_heads % kv_heads || head_dim < 1 || head_dim % LANES || head_dim > MAX_HEAD_DIM ||
      2 * cos.dims[1] > head_dim)
    return failure(api, "the numbers of heads, or their width, do not fit each other");
  if (packed.num_dims < 2 || packed.dims[packed.num_dims - 1] != width)
    return failure(api, "the last dimension of packed is not that of queries, keys and values");
  Attention attention = {
      .packed = packed.data, .slots = slots.data, .positions = positions.data,
      .cos = kernel->num_inputs > COS ? cos.data : NULL, .sin = sin.data, .half = (size_t)cos.dims[1],
      .num_rows = packed.num_elements / (size_t)width, .num_heads = (size_t)kernel->num_heads,
      .num_kv_heads = (size_t)kv_heads, .head_dim = (size_t)head_dim, .capacity = (size_t)key.dims[2],
      .window = (size_t)kernel->window, .scale = kernel->scale,
  };
  TRY(check_rows(api, &attention, &key, &slots, &positions, (size_t)cos.dims[0]));
  TRY(present_of(kernel, context, PRESENT_KEY, &key, &attention.keys));
  TRY(present_of(kernel, context, PRESENT_VALUE, &value, &attention.values));
  packed.dims[packed.num_dims - 1] = kernel->num_heads * head_dim;
  TRY(output_data(api, context, OUTPUT, packed.dims, packed.num_dims, &attention.output));
  if (attention.num_rows == 0) return NULL;
  append_rows(&attention);
  return ORT_PARALLEL_FOR(api)(context, run_head, attention.num_rows * attention.num_heads, 0, &attention);
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
  Kernel kernel = {.api = api, .num_inputs = operator_num_inputs(op)};
  TRY(ORT_INTEGER_ATTRIBUTE(api)(info, "num_heads", &kernel.num_heads));
  TRY(ORT_INTEGER_ATTRIBUTE(api)(info, "window", &kernel.window));
  TRY(ORT_FLOAT_ATTRIBUTE(api)(info, "scale", &kernel.scale));
  if (kernel.num_heads < 1 || kernel.num_heads > MAX_HEADS || kernel.window < 0)
    return failure(api, "num_heads has to be positive, and at most 2^16, window not negative");
  return operator_create(api, &kernel, sizeof kernel, out);
}

const Operator ATTENTION_OPERATORS[] = {
    {CALLBACKS(create, compute), "CachedAttention", POSITIONS + 1, PRESENT_VALUE + 1, 0, INTEGERS},
    {CALLBACKS(create, compute), "RotaryCachedAttention", SIN + 1, PRESENT_VALUE + 1, 0, INTEGERS},
};
