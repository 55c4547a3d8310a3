// What the host's modules for Python share: the names of the kernels' inputs and types, and launches as dictionaries.
#pragma once

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "kv_memory.h"
#include "simt/simt.cuh"

namespace kvmem {

constexpr const char* kInputNames[kAllInputs] = {"image",
                                                 "words",
                                                 "gate_word",
                                                 "gate_image",
                                                 "write_word_weight",
                                                 "write_word_bias",
                                                 "write_image_weight",
                                                 "write_image_bias",
                                                 "key_weight",
                                                 "key_bias",
                                                 "value_weight",
                                                 "value_bias",
                                                 "response_gate_weight",
                                                 "response_gate_bias",
                                                 "keys",
                                                 "values"};

inline DataType data_type(const std::string& name) {
  if (name == "float32") return DataType::float32;
  if (name == "bfloat16") return DataType::bfloat16;
  if (name == "float16") return DataType::float16;
  throw std::invalid_argument("dtype " + name);
}

inline pybind11::dict described(const simt::host::Launched& launched) {
  pybind11::dict entry;
  entry["kernel"] = launched.kernel;
  entry["blocks"] = launched.launch.blocks;
  entry["threads"] = launched.launch.threads;
  entry["cluster"] = launched.launch.cluster;
  entry["shared_bytes"] = launched.launch.shared_bytes;
  entry["early"] = launched.launch.early;
  return entry;
}

// What was launched since the list was last cleared, in order.
inline pybind11::list launches() {
  pybind11::list list;
  for (const simt::host::Launched& launched : simt::host::launched()) list.append(described(launched));
  return list;
}

// For `kvmem_simt`: what calls launch, without running them.
void add_plan(pybind11::module_& module);

}  // namespace kvmem
