#include "model/files/safetensors_header.h"

#include <algorithm>
#include <array>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

namespace ossature {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxRank = 8;  // gpt-oss has tensors of rank 1 to 4
constexpr std::size_t kShownBytes = 80;

struct DTypeRow {
  DType dtype;
  std::string_view name;
  std::size_t bytes;
};
constexpr std::array<DTypeRow, 10> kDTypes = {{{DType::kBool, "BOOL", 1},
                                               {DType::kU8, "U8", 1},
                                               {DType::kI8, "I8", 1},
                                               {DType::kI16, "I16", 2},
                                               {DType::kI32, "I32", 4},
                                               {DType::kI64, "I64", 8},
                                               {DType::kF16, "F16", 2},
                                               {DType::kBF16, "BF16", 2},
                                               {DType::kF32, "F32", 4},
                                               {DType::kF64, "F64", 8}}};

const DTypeRow& row_of(DType dtype) {
  return *std::find_if(kDTypes.begin(), kDTypes.end(), [&](const DTypeRow& row) { return row.dtype == dtype; });
}

std::string range_text(std::uint64_t begin, std::uint64_t end) {
  return std::to_string(begin) + " to " + std::to_string(end);
}

[[noreturn]] void fail(const std::string& where, const std::string& found, const std::string& expected) {
  throw CheckpointError(where + ": " + found + "; expected " + expected + "; get the file again or write it anew");
}

/// Reads the header event by event: nothing nests deeper than a tensor's arrays, so depth costs no memory or stack.
class HeaderReader : public nlohmann::json_sax<json> {
 public:
  explicit HeaderReader(const std::string& where) : where_(where) {}

  SafetensorsHeader take() { return std::move(header_); }

  bool start_object(std::size_t /*size*/) override {
    if (place_ == Place::kStart) {
      place_ = Place::kRoot;
    } else if (place_ == Place::kRoot && name_ == "__metadata__") {
      place_ = Place::kMetadata;
    } else if (place_ == Place::kRoot) {
      place_ = Place::kTensor;
      header_.tensors.emplace_back().name = name_;
      has_dtype_ = has_shape_ = false;
      offsets_seen_ = -1;
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool key(std::string& text) override {
    if (place_ == Place::kRoot) {
      name_ = text;
      if (!names_.insert(text).second) refuse(escaped(text) + " stands in the header twice", "every name once");
    } else if (place_ == Place::kMetadata) {
      field_ = text;
      if (header_.metadata.contains(text)) refuse("__metadata__ has " + escaped(text) + " twice", "every key once");
    } else {
      field_ = text;
      const bool is_repeated = (text == "dtype" && has_dtype_) || (text == "shape" && has_shape_) ||
                               (text == "data_offsets" && offsets_seen_ >= 0);
      if (is_repeated) refuse(tensor() + " has " + text + " twice", "it once");
      if (text != "dtype" && text != "shape" && text != "data_offsets")
        refuse(tensor() + " has a field " + escaped(text), "only dtype, shape and data_offsets");
    }
    return true;
  }

  bool string(std::string& text) override {
    if (place_ == Place::kMetadata) {
      header_.metadata[field_] = text;
    } else if (place_ == Place::kTensor && field_ == "dtype") {
      const auto* row = std::find_if(kDTypes.begin(), kDTypes.end(),
                                     [&](const DTypeRow& candidate) { return candidate.name == text; });
      if (row == kDTypes.end())
        refuse(tensor() + " has dtype " + escaped(text), "BF16, F32, U8 or another of the dtypes of gpt-oss files");
      header_.tensors.back().dtype = row->dtype;
      has_dtype_ = true;
    } else {
      unexpected("a string");
    }
    return true;
  }

  bool start_array(std::size_t /*size*/) override {
    if (place_ != Place::kTensor || field_ == "dtype") unexpected("an array");
    if (field_ == "shape") {
      place_ = Place::kShape;
      has_shape_ = true;
    } else {
      place_ = Place::kOffsets;
      offsets_seen_ = 0;
    }
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    TensorInfo* info = header_.tensors.empty() ? nullptr : &header_.tensors.back();
    if (place_ == Place::kShape) {
      if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))
        refuse(tensor() + " has a dimension of " + std::to_string(value), "one below 2^63");
      if (info->shape.size() == kMaxRank)
        refuse(tensor() + " has more than " + std::to_string(kMaxRank) + " dimensions", "at most that many");
      info->shape.push_back(static_cast<std::int64_t>(value));
    } else if (place_ == Place::kOffsets) {
      if (offsets_seen_ == 2) refuse(tensor() + " has more than two data_offsets", "its first byte and its end");
      (offsets_seen_ == 0 ? info->begin : info->end) = value;
      ++offsets_seen_;
    } else {
      unexpected("a number");
    }
    return true;
  }

  bool number_integer(number_integer_t value) override { unexpected("the negative number " + std::to_string(value)); }
  /// An integer that fits no 64 bits arrives here too.
  bool number_float(number_float_t /*value*/, const string_t& text) override {
    unexpected("the number " + text.substr(0, kShownBytes));
  }
  bool null() override { unexpected("null"); }
  bool boolean(bool value) override { unexpected(value ? "true" : "false"); }
  bool binary(binary_t& /*value*/) override { unexpected("binary data"); }

  bool end_array() override {
    if (place_ == Place::kOffsets && offsets_seen_ != 2)
      refuse(tensor() + " has fewer than two data_offsets", "its first byte and its end");
    place_ = Place::kTensor;
    return true;
  }

  bool end_object() override {
    if (place_ == Place::kTensor) {
      const char* missing = !has_dtype_         ? "dtype"
                            : !has_shape_       ? "shape"
                            : offsets_seen_ < 0 ? "data_offsets"
                                                : nullptr;
      if (missing != nullptr) refuse(tensor() + " has no " + missing, "dtype, shape and data_offsets");
    }
    place_ = place_ == Place::kRoot ? Place::kEnd : Place::kRoot;
    return true;
  }

  bool parse_error(std::size_t position, const std::string& /*token*/, const json::exception& /*error*/) override {
    refuse("the header is not valid JSON near its byte " + std::to_string(position), "an object of tensors");
  }

 private:
  enum class Place { kStart, kRoot, kMetadata, kTensor, kShape, kOffsets, kEnd };

  [[noreturn]] void refuse(const std::string& found, const std::string& expected) const {
    fail(where_, found, expected);
  }

  [[noreturn]] void unexpected(const std::string& what) const {
    switch (place_) {
      case Place::kMetadata:
        refuse("__metadata__ has " + what + " for " + escaped(field_), "a string");
      case Place::kTensor:
        refuse(tensor() + " has " + what + " for " + field_,
               field_ == "dtype" ? "a string" : "an array of whole numbers");
      case Place::kShape:
        refuse(tensor() + " has " + what + " in its shape", "whole numbers from 0");
      case Place::kOffsets:
        refuse(tensor() + " has " + what + " in its data_offsets", "whole numbers from 0");
      case Place::kRoot:
        refuse("the header has " + what + " for " + escaped(name_), "an object");
      default:
        refuse("the header is " + what, "an object of tensors");
    }
  }

  [[nodiscard]] std::string tensor() const { return "tensor " + escaped(name_); }

  const std::string& where_;
  SafetensorsHeader header_;
  std::set<std::string> names_;
  Place place_ = Place::kStart;
  std::string name_;   // of the tensor being read
  std::string field_;  // of the tensor or the metadata
  bool has_dtype_ = false;
  bool has_shape_ = false;
  int offsets_seen_ = -1;  // -1 until the array begins
};

void check_bytes(const TensorInfo& info, std::uint64_t data_offset, std::uint64_t data_bytes,
                 const std::string& where) {
  const std::string tensor = "tensor " + escaped(info.name);
  const std::string range = range_text(info.begin, info.end);
  if (info.begin > info.end) fail(where, tensor + " has data_offsets " + range, "the end not before the beginning");
  if (info.end > data_bytes)
    fail(where,
         tensor + " has data_offsets " + range + " but the file has " + std::to_string(data_bytes) + " bytes of data",
         "offsets inside the file: is it cut short?");
  std::uint64_t needed = 0;
  if (!byte_count(info.dtype, info.shape, needed) || needed != info.end - info.begin) {
    fail(where,
         tensor + " has " + std::to_string(info.end - info.begin) + " bytes for " +
             std::string(dtype_name(info.dtype)) + " " + shape_text(info.shape),
         "as many bytes as its shape asks for");
  }
  const std::size_t alignment = element_size(info.dtype);
  if (needed != 0 && (data_offset + info.begin) % alignment != 0)
    fail(where, tensor + " begins at byte " + std::to_string(data_offset + info.begin) + " of the file",
         "a multiple of the " + std::to_string(alignment) + " bytes of its elements");
}

}  // namespace

std::size_t element_size(DType dtype) {
  return row_of(dtype).bytes;
}

std::string_view dtype_name(DType dtype) {
  return row_of(dtype).name;
}

std::string escaped(std::string_view text) {
  // Replaces what is not UTF-8, and a character that the cut divides.
  std::string shown = json(text.substr(0, kShownBytes)).dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > kShownBytes) shown += "...";
  return shown;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

bool byte_count(DType dtype, const std::vector<std::int64_t>& shape, std::uint64_t& bytes) {
  std::int64_t product = static_cast<std::int64_t>(element_size(dtype));
  for (const std::int64_t size : shape)
    if (size < 0 || __builtin_mul_overflow(product, size, &product)) return false;
  bytes = static_cast<std::uint64_t>(product);
  return true;
}

SafetensorsHeader parse_safetensors_header(std::string_view text, std::uint64_t data_offset, std::uint64_t data_bytes,
                                           const std::string& where) {
  HeaderReader reader(where);
  if (text.empty() || text.front() != '{') fail(where, "the header does not begin with {", "an object of tensors");
  json::sax_parse(text, &reader);
  SafetensorsHeader header = reader.take();
  for (const TensorInfo& info : header.tensors) check_bytes(info, data_offset, data_bytes, where);
  std::stable_sort(header.tensors.begin(), header.tensors.end(), [](const TensorInfo& left, const TensorInfo& right) {
    return std::pair(left.begin, left.end) < std::pair(right.begin, right.end);
  });
  std::uint64_t covered = 0;
  for (const TensorInfo& info : header.tensors) {
    const std::string tensor = "tensor " + escaped(info.name);
    if (info.begin < covered)
      fail(where, tensor + " at " + range_text(info.begin, info.end) + " overlaps the tensor before it",
           "every byte claimed once");
    if (info.begin > covered)
      fail(where, "the data bytes " + range_text(covered, info.begin) + " before " + tensor + " belong to no tensor",
           "every byte claimed once");
    covered = info.end;
  }
  if (covered != data_bytes)
    fail(where, "the data bytes " + range_text(covered, data_bytes) + " belong to no tensor",
         "every byte claimed once");
  return header;
}

std::string safetensors_header_json(const std::vector<TensorInfo>& tensors,
                                    const std::map<std::string, std::string>& metadata, const std::string& where) {
  try {
    std::string text = "{";
    if (!metadata.empty()) text += "\"__metadata__\":" + json(metadata).dump() + ",";
    for (const TensorInfo& info : tensors) {
      text += json(info.name).dump() + ":{\"dtype\":\"" + std::string(dtype_name(info.dtype)) +
              "\",\"shape\":" + json(info.shape).dump() + ",\"data_offsets\":[" + std::to_string(info.begin) + "," +
              std::to_string(info.end) + "]},";
    }
    if (text.back() == ',') text.pop_back();
    text += "}";
    text.append((8 - text.size() % 8) % 8, ' ');
    return text;
  } catch (const json::exception&) {
    fail(where, "a name or a metadata text is not UTF-8", "UTF-8");
  }
}

}  // namespace ossature
