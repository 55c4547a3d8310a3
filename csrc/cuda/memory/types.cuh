// Words and weights beside an image of 16 bits: in its type, or wide, in float32. A view has the image's type in both cases.
#pragma once

#include "simt/simt.cuh"

namespace kvmem::cuda {

// What the caller gave as `count` numbers of T or, where they are wide, float32.
template <typename T>
View<const T> parameter_view(const void* numbers, int64_t count, bool wide) {
  if (wide) return view(static_cast<const float*>(numbers), count).template as<const T>();
  return view(static_cast<const T*>(numbers), count);
}

template <typename T>
View<T> gradient_view(void* numbers, int64_t count, bool wide) {
  if (wide) return view(static_cast<float*>(numbers), count).template as<T>();
  return view(static_cast<T*>(numbers), count);
}

// Single numbers, where a pass reads too few of them to be compiled for both types.
template <typename T>
struct Parameters {
  View<const T> numbers;
  bool wide;

  KVMEM_DEVICE float operator[](int64_t i) const {
    return wide ? numbers.template as<const float>()[i] : to_float(numbers[i]);
  }
};

template <typename T>
KVMEM_DEVICE void put_gradient(View<T> to, bool wide, int64_t at, float x) {
  if (wide) {
    to.template as<float>()[at] = x;
  } else {
    to[at] = from_float<T>(x);
  }
}

}  // namespace kvmem::cuda
