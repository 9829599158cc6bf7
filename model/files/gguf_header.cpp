#include "model/files/gguf_header.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>
#include <type_traits>

#include "model/files/checkpoint_error.h"
#include "model/files/safetensors_header.h"

namespace ossature {
namespace {

constexpr std::string_view kMagic = "GGUF";
constexpr std::string_view kAlignmentKey = "general.alignment";

[[noreturn]] void fail(const std::string& where, const std::string& found, const std::string& expected) {
  throw CheckpointError(where + ": " + found + "; expected " + expected + "; get the file again or convert it anew");
}

/// `index` as an alternative of the variant, default-made; nothing if it has none of that number.
template <typename Variant, std::size_t... I>
bool make_alternative(Variant& value, std::size_t index, std::index_sequence<I...>) {
  return ((index == I ? (value.template emplace<I>(), true) : false) || ...);
}
template <typename Variant>
bool make_alternative(Variant& value, std::size_t index) {
  return make_alternative(value, index, std::make_index_sequence<std::variant_size_v<Variant>>());
}

/// Takes values from the front of a file's bytes; no length that the file claims is believed before it is checked.
class Reader {
 public:
  Reader(std::span<const std::byte> file, const std::string& where)
      : file_(file.first(std::min<std::size_t>(file.size(), kMaxGgufHeaderBytes))), where_(where) {}

  [[nodiscard]] std::uint64_t position() const { return position_; }
  [[nodiscard]] const std::string& where() const { return where_; }

  std::span<const std::byte> take(std::uint64_t size, const std::string& what) {
    if (size > file_.size() - position_)
      fail(where_,
           what + " at byte " + std::to_string(position_) + " would be " + std::to_string(size) +
               " bytes long, which ends behind the file or its first " + std::to_string(kMaxGgufHeaderBytes) + " bytes",
           "a header inside of them: is the file cut short?");
    const auto bytes = file_.subspan(position_, size);
    position_ += size;
    return bytes;
  }

  template <typename T>
  T number(const std::string& what) {
    T value{};
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  std::string string(const std::string& what) {
    const auto bytes = take(number<std::uint64_t>("the length of " + what), what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  /// A value of a type that is told by `value`'s alternative.
  void read(GgufValue& value, const std::string& what) {
    std::visit([&](auto& alternative) { read_into(alternative, what); }, value);
  }

 private:
  template <typename T>
  void read_into(T& value, const std::string& what) {
    if constexpr (std::is_same_v<T, bool>) {
      const auto byte = number<std::uint8_t>(what);
      if (byte > 1) fail(where_, what + " is a truth value of " + std::to_string(byte), "0 or 1");
      value = byte == 1;
    } else if constexpr (std::is_same_v<T, std::string>) {
      value = string(what);
    } else if constexpr (std::is_same_v<T, GgufArray>) {
      const auto type = number<std::uint32_t>(what);
      if (!make_alternative(value, type) || std::holds_alternative<std::monostate>(value))
        fail(where_, what + " is an array of the type " + std::to_string(type), "a number, truth values or strings");
      const auto count = number<std::uint64_t>(what);
      std::visit([&](auto& elements) { read_elements(elements, count, what); }, value);
    } else {
      value = number<T>(what);
    }
  }

  void read_elements(std::monostate& /*none*/, std::uint64_t /*count*/, const std::string& /*what*/) {}
  template <typename T>
  void read_elements(std::vector<T>& elements, std::uint64_t count, const std::string& what) {
    constexpr std::uint64_t kLeast = std::is_same_v<T, std::string> ? 8 : std::is_same_v<T, bool> ? 1 : sizeof(T);
    if (count > (file_.size() - position_) / kLeast)
      fail(where_, what + " claims " + std::to_string(count) + " elements, more than the file has room for",
           "as many as there are: is the file cut short?");
    elements.reserve(count);
    for (std::uint64_t i = 0; i < count; ++i) {
      T element{};
      read_into(element, what);
      elements.push_back(std::move(element));
    }
  }

  std::span<const std::byte> file_;
  const std::string& where_;
  std::uint64_t position_ = 0;
};

GgufKeyValues read_key_values(Reader& reader, std::uint64_t count) {
  GgufKeyValues key_values;
  std::set<std::string> seen;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::string key = reader.string("key " + std::to_string(i));
    const std::string what = "the value of " + escaped(key);
    if (key.empty()) fail(reader.where(), "key " + std::to_string(i) + " is empty", "a name");
    if (!seen.insert(key).second)
      fail(reader.where(), "the key " + escaped(key) + " stands in it twice", "every key once");
    const auto type = reader.number<std::uint32_t>(what);
    GgufValue value;
    if (!make_alternative(value, type))
      fail(reader.where(), what + " is of the type " + std::to_string(type), "a type from 0 to 12");
    reader.read(value, what);
    key_values.emplace_back(key, std::move(value));
  }
  return key_values;
}

std::uint64_t alignment_of(const GgufKeyValues& key_values, const std::string& where) {
  for (const auto& [key, value] : key_values) {
    if (key != kAlignmentKey) continue;
    const auto* alignment = std::get_if<std::uint32_t>(&value);
    if (alignment == nullptr)
      fail(where, std::string(kAlignmentKey) + " is of the type " + gguf_type_name(value), "u32");
    if (!std::has_single_bit(*alignment) || *alignment < alignof(float))
      fail(where, std::string(kAlignmentKey) + " is " + std::to_string(*alignment), "a power of two from 4");
    return *alignment;
  }
  return kGgufAlignment;
}

GgmlType checked_type(std::uint32_t type, const std::string& tensor, const std::string& where) {
  for (const GgmlType known : {GgmlType::kF32, GgmlType::kBF16, GgmlType::kMxfp4})
    if (static_cast<std::uint32_t>(known) == type) return known;
  throw CheckpointError(where + ": " + tensor + " is of ggml's type " + std::to_string(type) +
                        "; expected F32 (0), BF16 (30) or MXFP4 (39), which hold a gpt-oss exactly; convert the model "
                        "again with --outtype bf16");
}

/// The next multiple of `alignment`, a power of two; nothing if it is beyond 64 bits.
bool align(std::uint64_t& position, std::uint64_t alignment) {
  if (__builtin_add_overflow(position, alignment - 1, &position)) return false;
  position &= ~(alignment - 1);
  return true;
}

GgufTensor read_tensor(Reader& reader, std::uint64_t index) {
  GgufTensor tensor;
  tensor.name = reader.string("the name of tensor " + std::to_string(index));
  const std::string what = "tensor " + escaped(tensor.name);
  if (tensor.name.size() > kGgufMaxTensorNameBytes)
    fail(reader.where(), what + " has a name of " + std::to_string(tensor.name.size()) + " bytes",
         "at most " + std::to_string(kGgufMaxTensorNameBytes));
  const auto rank = reader.number<std::uint32_t>(what);
  if (rank > kGgufMaxRank)
    fail(reader.where(), what + " has " + std::to_string(rank) + " dimensions",
         "at most " + std::to_string(kGgufMaxRank));
  for (std::uint32_t i = 0; i < rank; ++i) tensor.shape.push_back(reader.number<std::int64_t>(what));
  std::reverse(tensor.shape.begin(), tensor.shape.end());
  tensor.type = checked_type(reader.number<std::uint32_t>(what), what, reader.where());
  tensor.begin = reader.number<std::uint64_t>(what);
  std::uint64_t bytes = 0;
  if (!byte_count(tensor.type, tensor.shape, bytes) || __builtin_add_overflow(tensor.begin, bytes, &tensor.end))
    fail(reader.where(), what + " has the shape " + shape_text(tensor.shape),
         "sizes from 0 whose product is a tensor, of MXFP4 rows of whole blocks of 32");
  return tensor;
}

template <typename T>
void append(std::string& out, const T& value) {
  static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}
void append(std::string& out, bool value) {
  out.push_back(value ? '\1' : '\0');
}
void append(std::string& out, const std::string& text) {
  append(out, std::uint64_t{text.size()});
  out += text;
}
void append(std::string& /*out*/, std::monostate /*none*/) {}
template <typename T>
void append(std::string& out, const std::vector<T>& elements) {
  append(out, std::uint64_t{elements.size()});
  for (const auto& element : elements) append(out, static_cast<const T&>(element));
}
void append(std::string& out, const GgufArray& array) {
  append(out, static_cast<std::uint32_t>(array.index()));
  std::visit([&](const auto& elements) { append(out, elements); }, array);
}

}  // namespace

GgufHeader parse_gguf_header(std::span<const std::byte> file, const std::string& where) {
  Reader reader(file, where);
  const auto magic = reader.take(kMagic.size(), "the magic number");
  if (std::memcmp(magic.data(), kMagic.data(), kMagic.size()) != 0)
    fail(where, "it does not begin with GGUF", "a GGUF file");
  const auto version = reader.number<std::uint32_t>("the version");
  if (version != 2 && version != kGgufVersion)
    fail(where, "it is of version " + std::to_string(version), "2 or 3, little-endian");
  const auto num_tensors = reader.number<std::uint64_t>("the number of tensors");
  const auto num_key_values = reader.number<std::uint64_t>("the number of keys");

  GgufHeader header;
  header.key_values = read_key_values(reader, num_key_values);
  const std::uint64_t alignment = alignment_of(header.key_values, where);
  std::set<std::string> names;
  std::uint64_t covered = 0;
  for (std::uint64_t i = 0; i < num_tensors; ++i) {
    const GgufTensor& tensor = header.tensors.emplace_back(read_tensor(reader, i));
    const std::string what = "tensor " + escaped(tensor.name);
    if (!names.insert(tensor.name).second) fail(where, what + " stands in it twice", "every name once");
    if (!align(covered, alignment) || tensor.begin != covered)
      fail(where, what + " begins at byte " + std::to_string(tensor.begin) + " of the data",
           std::to_string(covered) + ", the next multiple of " + std::to_string(alignment) +
               " behind the tensor before it");
    covered = tensor.end;
  }
  header.data_offset = reader.position();
  if (!align(header.data_offset, alignment) || header.data_offset > file.size()) {
    if (num_tensors > 0) fail(where, "it ends before its data begin", "the tensors: is the file cut short?");
    header.data_offset = file.size();
  }
  const std::uint64_t data_bytes = file.size() - header.data_offset;
  if (covered > data_bytes)
    fail(where, "its tensors take " + std::to_string(covered) + " bytes but it has " + std::to_string(data_bytes),
         "all of them: is the file cut short?");
  if (data_bytes - covered >= alignment)
    fail(where, "the last " + std::to_string(data_bytes - covered) + " bytes belong to no tensor",
         "less than the alignment of " + std::to_string(alignment));
  return header;
}

std::string gguf_header_bytes(const GgufKeyValues& key_values, std::vector<GgufTensor>& tensors,
                              const std::string& where) {
  std::string out(kMagic);
  append(out, kGgufVersion);
  append(out, std::uint64_t{tensors.size()});
  append(out, std::uint64_t{key_values.size()});
  std::set<std::string_view> seen;
  for (const auto& [key, value] : key_values) {
    if (key.empty() || !seen.insert(key).second)
      throw CheckpointError(where + ": the key " + escaped(key) + " is empty or given twice; expected every key once");
    append(out, key);
    append(out, static_cast<std::uint32_t>(value.index()));
    std::visit([&](const auto& alternative) { append(out, alternative); }, value);
  }
  const std::uint64_t alignment = alignment_of(key_values, where);
  seen.clear();
  std::uint64_t position = 0;
  for (GgufTensor& tensor : tensors) {
    const std::string what = where + ": tensor " + escaped(tensor.name);
    if (tensor.name.size() > kGgufMaxTensorNameBytes || !seen.insert(tensor.name).second)
      throw CheckpointError(what + " is given twice or has too long a name; expected every name once, of at most " +
                            std::to_string(kGgufMaxTensorNameBytes) + " bytes");
    std::uint64_t bytes = 0;
    if (tensor.shape.size() > kGgufMaxRank || !byte_count(tensor.type, tensor.shape, bytes) ||
        !align(position, alignment) || __builtin_add_overflow(position, bytes, &tensor.end))
      throw CheckpointError(what + " has the shape " + shape_text(tensor.shape) + "; expected one that " +
                            std::string(ggml_type_name(tensor.type)) + " has");
    tensor.begin = position;
    position = tensor.end;
    append(out, tensor.name);
    append(out, static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size) append(out, *size);
    append(out, static_cast<std::uint32_t>(tensor.type));
    append(out, tensor.begin);
  }
  std::uint64_t size = out.size();
  align(size, alignment);
  out.resize(size, '\0');
  return out;
}

}  // namespace ossature
