// A safetensors file that a test may change before it is written again.
#pragma once

#include <algorithm>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include "model/checkpoint/checkpoint.h"
#include "model/files/safetensors.h"

namespace ossature::testing {

/// Tensors by name, in memory of their own.
using Tensors = std::map<std::string, at::Tensor>;

inline Tensors read_tensors(const std::filesystem::path& path) {
  const auto file = SafetensorsFile::open(path);
  Tensors tensors;
  for (const TensorInfo& info : file->tensors()) tensors[info.name] = wrap(file, info).clone();
  return tensors;
}

/// The tensors of all safetensors files of a directory.
inline Tensors read_all_tensors(const std::filesystem::path& dir) {
  Tensors tensors;
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    if (entry.path().extension() == ".safetensors") tensors.merge(read_tensors(entry.path()));
  }
  return tensors;
}

inline DType dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kByte:
      return DType::kU8;
    case at::kHalf:
      return DType::kF16;
    case at::kBFloat16:
      return DType::kBF16;
    case at::kFloat:
      return DType::kF32;
    case at::kDouble:
      return DType::kF64;
    case at::kLong:
      return DType::kI64;
    default:
      throw std::logic_error("no such tensors in the tests");
  }
}

/// Larger elements first, as alignment asks for.
inline void write_tensors(const std::filesystem::path& path, const Tensors& tensors) {
  std::vector<std::pair<std::string, at::Tensor>> order(tensors.begin(), tensors.end());
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return a.second.itemsize() > b.second.itemsize(); });
  std::vector<TensorInfo> infos;
  for (const auto& [name, tensor] : order) infos.push_back({name, dtype_of(tensor), tensor.sizes().vec()});
  SafetensorsWriter writer(path, infos);
  for (const auto& [name, tensor] : order) {
    const at::Tensor plain = tensor.contiguous();
    writer.write({static_cast<const std::byte*>(plain.const_data_ptr()), plain.nbytes()});
  }
  writer.finish();
}

/// Same dtype, shape and bytes.
inline bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return std::equal(static_cast<const char*>(x.const_data_ptr()),
                    static_cast<const char*>(x.const_data_ptr()) + x.nbytes(),
                    static_cast<const char*>(y.const_data_ptr()));
}

/// The small golden's directory `name`.
inline std::filesystem::path small(const std::string& name) {
  return std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/golden/small" / name;
}

}  // namespace ossature::testing
