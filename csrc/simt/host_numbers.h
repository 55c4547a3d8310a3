// The 16-bit numbers of the host build, their conversions, and the device's approximate functions.
#pragma once

#include <cstdint>
#include <cstring>

namespace kvmem::simt {

struct Bfloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

inline float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }
inline uint32_t bits_of(float x) { return __builtin_bit_cast(uint32_t, x); }

inline float to_float(float x) { return x; }
inline float to_float(Bfloat16 x) { return float_of(static_cast<uint32_t>(x.bits) << 16); }

inline float to_float(Float16 x) {
  const uint32_t sign = (x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
  if (rest >= 0x7c00) return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13);
  // Exact also for subnormal numbers: the exponent's offset is corrected by a product with a power of two.
  return float_of(sign | bits_of(float_of(rest << 13) * 0x1p112f));
}

template <typename T>
T from_float(float x);

template <>
inline float from_float<float>(float x) {
  return x;
}

template <>
inline Bfloat16 from_float<Bfloat16>(float x) {
  const uint32_t bits = bits_of(x);
  if (x != x) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

template <>
inline Float16 from_float<Float16>(float x) {
  const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
  uint32_t half;
  if (x != x) {
    half = 0x7fff;
  } else if (rest >= 0x477ff000) {
    half = 0x7c00;
  } else if (rest < 0x38800000) {
    // The sum's last place is that of the smallest subnormal number, so the addition rounds as it must.
    half = bits_of(float_of(rest) + 0.5f) - bits_of(0.5f);
  } else {
    half = (rest - 0x38000000 + 0xfff + (rest >> 13 & 1)) >> 13;
  }
  return {static_cast<uint16_t>(sign | half)};
}

template <typename T>
uint32_t pack(float low, float high) {
  return from_float<T>(low).bits | static_cast<uint32_t>(from_float<T>(high).bits) << 16;
}

template <typename T>
Float2 unpack(uint32_t bits) {
  return {to_float(T{static_cast<uint16_t>(bits)}), to_float(T{static_cast<uint16_t>(bits >> 16)})};
}

namespace host {

// Less exact than the host could, by one unit in the last place to either side (powers of two are exact): the device's
// errors are up to 2^-22 too, and it knows no subnormal numbers.
inline float approximate(float y) {
  const uint32_t bits = bits_of(y), exponent = bits & 0x7f800000;
  if (exponent == 0) return float_of(bits & 0x80000000);
  return exponent == 0x7f800000 || (bits & 0x7fffff) == 0 ? y : float_of(bits ^ 1);
}

inline float flush(float x) { return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0, x) : x; }

}  // namespace host

inline float larger(float x, float y) { return __builtin_fmaxf(x, y); }
inline float exp2(float x) { return host::approximate(__builtin_exp2f(host::flush(x))); }
inline float log2(float x) { return host::approximate(__builtin_log2f(host::flush(x))); }
inline float reciprocal(float x) { return host::flush(host::approximate(1 / host::flush(x))); }

}  // namespace kvmem::simt
