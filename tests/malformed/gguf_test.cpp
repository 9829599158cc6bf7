// A good GGUF file broken in every way it can be: one CheckpointError that names the file and what is wrong.
#include "model/files/gguf.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "model/export/export_gguf.h"
#include "model/files/gguf_writer.h"
#include "tests/malformed/scratch.h"
#include "tests/support/tensor_file.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using testing::small;

std::string message_of(const fs::path& file) {
  try {
    const Checkpoint checkpoint(file);
    checkpoint.check_scales();
    ADD_FAILURE() << "was opened";
    return "";
  } catch (const CheckpointError& error) {
    const std::string what = error.what();
    EXPECT_TRUE(what.starts_with(file.string() + ": ")) << what;
    EXPECT_NE(what.find("; expected "), std::string::npos) << what;
    EXPECT_EQ(what.find_first_of("\n\r\x1b"), std::string::npos) << what;
    EXPECT_LT(what.size(), 800U) << what;
    return what;
  }
}

/// The bytes of a file with a header of one's own making.
class Bytes {
 public:
  template <typename T>
  Bytes& number(T value) {
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Bytes& raw(std::string_view text) {
    text_ += text;
    return *this;
  }
  Bytes& string(std::string_view text) { return number(std::uint64_t{text.size()}).raw(text); }
  Bytes& start(std::uint64_t tensors, std::uint64_t keys, std::uint32_t version = 3) {
    return raw("GGUF").number(version).number(tensors).number(keys);
  }
  Bytes& tensor(std::string_view name, const std::vector<std::int64_t>& sizes, std::uint32_t type,
                std::uint64_t begin) {
    string(name).number(static_cast<std::uint32_t>(sizes.size()));
    for (const std::int64_t size : sizes) number(size);
    return number(type).number(begin);
  }
  Bytes& pad(std::size_t multiple = 32) {
    text_.resize((text_.size() + multiple - 1) / multiple * multiple);
    return *this;
  }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  std::string text_;
};

struct HeaderCase {
  std::string name;
  Bytes bytes;
  std::string mention;
};

class HostileGgufHeader : public ::testing::TestWithParam<HeaderCase> {};

TEST_P(HostileGgufHeader, IsRefused) {
  const Scratch scratch;
  const std::string found = message_of(scratch.write("a.gguf", GetParam().bytes.text()));
  EXPECT_NE(found.find(GetParam().mention), std::string::npos) << found;
}

constexpr std::uint64_t kHuge = std::uint64_t{1} << 62;

INSTANTIATE_TEST_SUITE_P(
    Rules, HostileGgufHeader,
    ::testing::Values(
        HeaderCase{"Empty", Bytes(), "it has 0 bytes"}, HeaderCase{"Short", Bytes().raw("GGUF"), "it has 4 bytes"},
        HeaderCase{"Magic", Bytes().raw("GGML").pad(), "does not begin with GGUF"},
        HeaderCase{"Version1", Bytes().start(0, 0, 1).pad(), "it is of version 1"},
        HeaderCase{"BigEndian", Bytes().start(0, 0, 0x03000000).pad(), "it is of version 50331648"},
        HeaderCase{"KeyLength", Bytes().start(0, 1).number(kHuge).pad(64), "key 0 at byte"},
        HeaderCase{"KeyCount", Bytes().start(0, kHuge).pad(64), "key 0 is empty"},
        HeaderCase{"KeyEmpty", Bytes().start(0, 1).string("").number(7u).raw("\1").pad(), "key 0 is empty"},
        HeaderCase{"KeyTwice",
                   Bytes().start(0, 2).string("k").number(7u).raw("\1").string("k").number(7u).raw("\1").pad(),
                   "the key \"k\" stands in it twice"},
        HeaderCase{"ValueType", Bytes().start(0, 1).string("k").number(13u).pad(64), "is of the type 13"},
        HeaderCase{"Truth", Bytes().start(0, 1).string("k").number(7u).raw("\2").pad(), "is a truth value of 2"},
        HeaderCase{"TextLength", Bytes().start(0, 1).string("k").number(8u).number(kHuge).pad(64),
                   "the value of \"k\""},
        HeaderCase{"ArrayType", Bytes().start(0, 1).string("k").number(9u).number(13u).number(kHuge).pad(64),
                   "is an array of the type 13"},
        HeaderCase{"ArrayOfArrays", Bytes().start(0, 1).string("k").number(9u).number(9u).number(kHuge).pad(64),
                   "is an array of the type 9"},
        HeaderCase{"ArrayCount", Bytes().start(0, 1).string("k").number(9u).number(8u).number(kHuge).pad(64),
                   "more than the file has room for"},
        HeaderCase{"AlignmentType", Bytes().start(0, 1).string("general.alignment").number(7u).raw("\1").pad(),
                   "general.alignment is of the type bool"},
        HeaderCase{"AlignmentValue", Bytes().start(0, 1).string("general.alignment").number(4u).number(48u).pad(),
                   "general.alignment is 48"},
        HeaderCase{"AlignmentZero", Bytes().start(0, 1).string("general.alignment").number(4u).number(0u).pad(),
                   "general.alignment is 0"},
        HeaderCase{"TensorCount", Bytes().start(kHuge, 0).pad(128), "tensor \"\" stands in it twice"},
        HeaderCase{"TensorName", Bytes().start(1, 0).tensor(std::string(64, 'n'), {1}, 0, 0).pad(), "a name of 64"},
        HeaderCase{"TensorTwice",
                   Bytes().start(2, 0).tensor("t", {1}, 0, 0).tensor("t", {1}, 0, 32).pad().raw("abcd").pad(),
                   "\"t\" stands in it twice"},
        HeaderCase{"TensorRank", Bytes().start(1, 0).tensor("t", {1, 1, 1, 1, 1}, 0, 0).pad(), "has 5 dimensions"},
        HeaderCase{"TensorNegative", Bytes().start(1, 0).tensor("t", {-4}, 0, 0).pad(), "has the shape [-4]"},
        HeaderCase{"TensorOverflow", Bytes().start(1, 0).tensor("t", {1 << 30, 1 << 30, 1 << 30}, 0, 0).pad(),
                   "has the shape"},
        HeaderCase{"TensorRow", Bytes().start(1, 0).tensor("t", {48, 1}, 39, 0).pad(), "has the shape [1, 48]"},
        HeaderCase{"TensorType", Bytes().start(1, 0).tensor("t", {32}, 8, 0).pad(), "is of ggml's type 8"},
        HeaderCase{"TensorPlace", Bytes().start(1, 0).tensor("t", {1}, 0, 64).pad().raw("abcd"), "begins at byte 64"},
        HeaderCase{"TensorOverlap",
                   Bytes().start(2, 0).tensor("t", {1}, 0, 0).tensor("u", {1}, 0, 0).pad().raw("abcd").pad(),
                   "begins at byte 0"},
        HeaderCase{"NoData", Bytes().start(1, 0).tensor("t", {1}, 0, 0), "ends before its data begin"},
        HeaderCase{"DataShort", Bytes().start(1, 0).tensor("t", {99}, 0, 0).pad().raw("abcd"), "take 396 bytes"},
        HeaderCase{"DataLong", Bytes().start(1, 0).tensor("t", {1}, 0, 0).pad().raw(std::string(64, 'x')),
                   "belong to no tensor"},
        HeaderCase{"Terminal", Bytes().start(0, 1).string("\x1b[2J\n").number(13u).pad(64), "is of the type 13"}),
    [](const auto& param_info) { return param_info.param.name; });

/// The small golden as a GGUF file whose header and tensors a test may change.
struct Model {
  GgufKeyValues values;
  std::vector<GgufTensor> tensors;
  std::vector<std::string> data;

  Model() {
    const Scratch scratch;
    export_gguf(Checkpoint(small("hf")), {}, {}, scratch.path() / "a.gguf");
    const auto file = GgufFile::open(scratch.path() / "a.gguf");
    values = file->key_values();
    tensors = file->tensors();
    for (const GgufTensor& tensor : tensors) {
      const auto bytes = file->bytes(tensor);
      data.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    }
  }

  GgufValue& value(std::string_view key) {
    for (auto& [name, value] : values)
      if (name == key) return value;
    return values.emplace_back(key, GgufValue()).second;
  }
  void drop(std::string_view key) {
    std::erase_if(values, [&](const auto& entry) { return entry.first == key; });
  }
  std::size_t index(std::string_view name) const {
    for (std::size_t i = 0; i < tensors.size(); ++i)
      if (tensors[i].name == name) return i;
    throw std::logic_error("no such tensor");
  }
  void retype(std::string_view name, GgmlType type) {
    const std::size_t i = index(name);
    tensors[i].type = type;
    std::uint64_t bytes = 0;
    ASSERT_TRUE(byte_count(type, tensors[i].shape, bytes));
    data[i].assign(bytes, '\0');
  }
  void write(const fs::path& path) const {
    GgufWriter writer(path, values, tensors);
    for (const std::string& bytes : data) writer.write(std::as_bytes(std::span(bytes)));
    writer.finish();
  }
};

struct ModelCase {
  std::string name;
  std::function<void(Model&)> change;
  std::string mention;
};

class HostileGgufModel : public ::testing::TestWithParam<ModelCase> {};

TEST_P(HostileGgufModel, IsRefused) {
  const Scratch scratch;
  Model model;
  GetParam().change(model);
  model.write(scratch.path() / "a.gguf");
  const std::string found = message_of(scratch.path() / "a.gguf");
  EXPECT_NE(found.find(GetParam().mention), std::string::npos) << found;
}

TEST(HostileGgufModel, GoodOneOpens) {  // or the tests below prove nothing
  const Scratch scratch;
  Model().write(scratch.path() / "a.gguf");
  EXPECT_NO_THROW(Checkpoint(scratch.path() / "a.gguf").check_scales());
}

TEST(HostileGgufModel, EveryCutIsRefused) {
  const Scratch scratch;
  Model().write(scratch.path() / "whole");
  const std::string whole = read_bytes(scratch.path() / "whole");
  for (std::size_t size = 0; size + 32 < whole.size(); size += 1 + whole.size() / 199)
    (void)message_of(scratch.write("a.gguf", whole.substr(0, size)));
}

INSTANTIATE_TEST_SUITE_P(
    Rules, HostileGgufModel,
    ::testing::Values(
        ModelCase{"Architecture", [](Model& m) { m.value("general.architecture") = std::string("llama"); },
                  "general.architecture is \"llama\""},
        ModelCase{"NoArchitecture", [](Model& m) { m.drop("general.architecture"); }, "architecture is missing"},
        ModelCase{"Adapter", [](Model& m) { m.value("general.type") = std::string("adapter"); },
                  "general.type is \"adapter\""},
        ModelCase{"Split", [](Model& m) { m.value("split.count") = std::uint16_t{3}; }, "split.count is 3"},
        ModelCase{"CountMissing", [](Model& m) { m.drop("gpt-oss.block_count"); }, "gpt-oss.block_count is missing"},
        ModelCase{"CountText", [](Model& m) { m.value("gpt-oss.block_count") = std::string("2"); },
                  "gpt-oss.block_count is \"2\""},
        ModelCase{"CountTruth", [](Model& m) { m.value("gpt-oss.block_count") = true; }, "block_count is true"},
        ModelCase{"CountHuge", [](Model& m) { m.value("gpt-oss.expert_count") = ~std::uint64_t{0}; },
                  "gpt-oss.expert_count is 18446744073709551615"},
        ModelCase{"CountNegative", [](Model& m) { m.value("gpt-oss.expert_count") = std::int32_t{-1}; },
                  "gpt-oss.expert_count is -1"},
        ModelCase{"CountList",
                  [](Model& m) {
                    m.value("gpt-oss.feed_forward_length") = GgufArray(std::vector<std::int32_t>{1, 2});
                  },
                  "is arr[i32]"},
        ModelCase{"InnerSizesDisagree",
                  [](Model& m) { m.value("gpt-oss.expert_feed_forward_length") = std::uint32_t{1}; },
                  "gpt-oss.expert_feed_forward_length is 1"},
        ModelCase{"HeadSizesDisagree", [](Model& m) { m.value("gpt-oss.attention.value_length") = std::uint32_t{2}; },
                  "gpt-oss.attention.value_length is 2"},
        ModelCase{"VocabularyDisagrees", [](Model& m) { m.value("gpt-oss.vocab_size") = std::uint32_t{7}; },
                  "gpt-oss.vocab_size is 7"},
        ModelCase{"Epsilon", [](Model& m) { m.value("gpt-oss.attention.layer_norm_rms_epsilon") = std::nanf(""); },
                  "rms_norm_eps is nan"},
        ModelCase{"EpsilonWhole",
                  [](Model& m) { m.value("gpt-oss.attention.layer_norm_rms_epsilon") = std::uint32_t{1}; },
                  "layer_norm_rms_epsilon is 1"},
        ModelCase{"Rope", [](Model& m) { m.value("gpt-oss.rope.scaling.type") = std::string("linear"); },
                  "gpt-oss.rope.scaling.type is \"linear\""},
        ModelCase{"Truncate", [](Model& m) { m.value("ossature.rope.scaling.truncate") = std::uint32_t{1}; },
                  "ossature.rope.scaling.truncate is 1"},
        ModelCase{"Embedding", [](Model& m) { m.tensors[m.index("token_embd.weight")].name = "x"; },
                  "it has no matrix token_embd.weight"},
        ModelCase{"TensorMissing", [](Model& m) { m.tensors[m.index("blk.0.attn_sinks.weight")].name = "x"; },
                  "tensor blk.0.attn_sinks.weight is missing"},
        ModelCase{"TensorUnknown",
                  [](Model& m) {
                    m.tensors.push_back({"rope_freqs.weight", GgmlType::kF32, {1}});
                    m.data.emplace_back("abcd");
                  },
                  "tensor \"rope_freqs.weight\" is not part"},
        ModelCase{"TensorShape",
                  [](Model& m) {
                    auto& shape = m.tensors[m.index("blk.0.attn_q.weight")].shape;
                    std::swap(shape[0], shape[1]);
                    shape = {shape[0] * shape[1], 1};
                  },
                  "blk.0.attn_q.weight: shape"},
        ModelCase{"NormNotF32", [](Model& m) { m.retype("output_norm.weight", GgmlType::kBF16); },
                  "output_norm.weight: type BF16; expected F32"},
        ModelCase{"AttentionPacked", [](Model& m) { m.retype("blk.0.attn_q.weight", GgmlType::kMxfp4); },
                  "blk.0.attn_q.weight: type MXFP4"},
        ModelCase{"GateAndUpDiffer", [](Model& m) { m.retype("blk.1.ffn_up_exps.weight", GgmlType::kBF16); },
                  "blk.1.ffn_up_exps.weight: type BF16; expected MXFP4 as blk.1.ffn_gate_exps.weight"},
        ModelCase{"DownDiffers", [](Model& m) { m.retype("blk.1.ffn_down_exps.weight", GgmlType::kBF16); },
                  "blk.1.ffn_down_exps.weight: type BF16; expected MXFP4 as blk.1.ffn_gate_exps.weight"},
        ModelCase{"Scale", [](Model& m) { m.data[m.index("blk.0.ffn_down_exps.weight")][17] = '\xff'; },
                  "blk.0.ffn_down_exps.weight: holds the scale byte 255"}),
    [](const auto& param_info) { return param_info.param.name; });

TEST(HostileGgufTokenizer, BrokenListsAreRefused) {
  const fs::path model = fs::path(OSSATURE_SOURCE_DIR) / "recipes/embedded/model";
  const auto refused = [&](const std::string& key, const GgufValue& value, const std::string& mention) {
    const Scratch scratch;
    export_gguf(Checkpoint(model), {}, {}, scratch.path() / "a.gguf");
    const auto file = GgufFile::open(scratch.path() / "a.gguf");
    GgufKeyValues values = file->key_values();
    for (auto& entry : values)
      if (entry.first == key) entry.second = value;
    GgufWriter writer(scratch.path() / "b.gguf", values, file->tensors());
    for (const GgufTensor& tensor : file->tensors()) writer.write(file->bytes(tensor));
    writer.finish();
    try {
      export_checkpoint(Checkpoint(scratch.path() / "b.gguf"), {}, {}, scratch.path() / "out");
      ADD_FAILURE() << key << " was taken";
    } catch (const CheckpointError& error) {
      EXPECT_NE(std::string(error.what()).find(mention), std::string::npos) << error.what();
    }
    EXPECT_FALSE(fs::exists(scratch.path() / "out"));
  };
  refused("tokenizer.ggml.tokens", GgufArray(std::vector<std::string>{"a"}), "1 tokens and 4096 types");
  refused("tokenizer.ggml.tokens", std::string("a"), "tokenizer.ggml.tokens is missing or of another type");
  refused("tokenizer.ggml.tokens", GgufArray(std::vector<std::string>(4096, "\xff")), "not UTF-8");
  refused("tokenizer.ggml.merges", GgufArray(std::vector<std::string>{"ab"}), "a merge has no space");
  refused("tokenizer.ggml.bos_token_id", std::uint32_t{5000}, "tokenizer.ggml.bos_token_id is 5000");
}

}  // namespace
}  // namespace ossature
