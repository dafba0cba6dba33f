/* Of 8 numbers: their sum, and their exp without a library. */
#ifndef EDGEDSL_VECTORS_H
#define EDGEDSL_VECTORS_H

#include <immintrin.h>

static inline float sum_of(__m256 values) {
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* exp: 2^n times a polynomial of the rest, n an integer (Cody and Waite's reduction, Cephes' coefficients). */
static inline __m256 exponential(__m256 x) {
  x = _mm256_min_ps(_mm256_max_ps(x, _mm256_set1_ps(-87.3f)), _mm256_set1_ps(88.3f));
  __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 rest = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
  rest = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), rest);
  static const float factors[] = {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                                  4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
  __m256 found = _mm256_set1_ps(factors[0]);
  for (int i = 1; i < 6; i++) found = _mm256_fmadd_ps(found, rest, _mm256_set1_ps(factors[i]));
  found = _mm256_add_ps(_mm256_fmadd_ps(found, _mm256_mul_ps(rest, rest), rest), _mm256_set1_ps(1.0f));
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(found), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)));
}

#endif
