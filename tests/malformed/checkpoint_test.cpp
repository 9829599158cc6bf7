// A good checkpoint directory broken in every way it can be: one CheckpointError that names the file and what is wrong.
#include "model/checkpoint/checkpoint.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "model/adapter/loaded_model.h"
#include "tests/malformed/scratch.h"
#include "tests/support/tensor_file.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::small;
using testing::Tensors;

const char* const kIndex = "model.safetensors.index.json";

/// A copy of one of the small golden's layouts, to be broken.
class Copy {
 public:
  explicit Copy(const std::string& layout) { fs::copy(small(layout), dir()); }

  [[nodiscard]] fs::path dir() const { return scratch_.path() / "model"; }
  [[nodiscard]] std::string read(const std::string& name) const { return read_bytes(dir() / name); }
  void write(const std::string& name, const std::string& bytes) const { scratch_.write("model/" + name, bytes); }
  [[nodiscard]] Tensors tensors() const { return testing::read_tensors(dir() / "model.safetensors"); }
  void write(const Tensors& tensors) const { testing::write_tensors(dir() / "model.safetensors", tensors); }
  /// Merges `patch` into the index (RFC 7396).
  void patch_index(const json& patch) const {
    json index = json::parse(read(kIndex));
    index.merge_patch(patch);
    write(kIndex, index.dump());
  }

  /// The message that opening gives: one line that begins with `file`, a name in the directory or "" for itself.
  [[nodiscard]] std::string message(const std::string& file) const {
    try {
      const Checkpoint checkpoint(dir());
      checkpoint.check_scales();
      ADD_FAILURE() << "was opened";
      return "";
    } catch (const CheckpointError& error) {
      const std::string what = error.what();
      EXPECT_TRUE(what.starts_with((file.empty() ? dir() : dir() / file).string() + ": ")) << what;
      EXPECT_NE(what.find("; expected "), std::string::npos) << what;
      EXPECT_EQ(what.find_first_of("\n\r\x1b"), std::string::npos) << what;
      EXPECT_LT(what.size(), 800U) << what;
      return what;
    }
  }
  void expect(const std::string& file, const std::string& mention) const {
    const std::string found = message(file);
    EXPECT_NE(found.find(mention), std::string::npos) << mention << "\n" << found;
  }

 private:
  Scratch scratch_;
};

TEST(HostileCheckpoint, GoodOnesOpen) {  // or the tests below prove nothing
  for (const char* layout : {"hf", "hf-sharded", "hf-bf16", "openai"}) {
    const Copy copy(layout);
    EXPECT_NO_THROW(Checkpoint(copy.dir()).check_scales()) << layout;
  }
}

TEST(HostileCheckpoint, DirectoryIsNone) {
  const Scratch scratch;
  for (const fs::path& path : {scratch.path() / "absent", scratch.write("file", "x"), scratch.path()})
    EXPECT_THROW(Checkpoint{path}, CheckpointError) << path;
}

TEST(HostileCheckpoint, FilesAreMissing) {
  const Copy config("hf"), weights("hf");
  fs::remove(config.dir() / "config.json");
  config.expect("config.json", "it cannot be read");
  fs::remove(weights.dir() / "model.safetensors");
  weights.expect("", "no *.safetensors file");
}

class HostileIndex : public ::testing::TestWithParam<std::pair<std::string, std::string>> {};

TEST_P(HostileIndex, NamesNoShard) {
  const Copy copy("hf-sharded");
  copy.patch_index({{"weight_map", {{"model.norm.weight", json::parse(GetParam().first)}}}});
  copy.expect(kIndex, GetParam().second);
}

INSTANTIATE_TEST_SUITE_P(
    Values, HostileIndex,
    ::testing::Values(std::pair{R"("../model/model-00000-of-00002.safetensors")", "is \"../model/model-00000"},
                      std::pair{R"("/etc/passwd")", "is \"/etc/passwd\"; expected the name of a *.safetensors file"},
                      std::pair{R"("/tmp/x.safetensors")", "is \"/tmp/x.safetensors\"; expected the name"},
                      std::pair{R"("sub/model.safetensors")", "is \"sub/model.safetensors\"; expected the name"},
                      std::pair{R"("..")", "is \"..\"; expected the name"},
                      std::pair{R"(".")", "is \".\"; expected the name"},
                      std::pair{R"("")", "is \"\"; expected the name"},
                      std::pair{R"("config.json")", "is \"config.json\"; expected the name"},
                      std::pair{R"("a\u0000.safetensors")", "is \"a\\u0000.safetensors\"; expected the name"},
                      std::pair{R"("a\n\u001b[2J.safetensors")", "is \"a\\n\\u001b[2J.safetensors\", which is not"},
                      std::pair{R"("model-00003-of-00002.safetensors")", "which is not there"},
                      std::pair{R"(5)", "is 5; expected the name"}, std::pair{R"([])", "is []; expected the name"},
                      std::pair{R"({"a": 1})", "is {\"a\":1}; expected the name"},
                      std::pair{R"("model-00000-of-00002.safetensors")", "which has no such tensor"}));

TEST(HostileIndexText, IsNotTheJsonExpected) {
  const Copy copy("hf-sharded");
  const std::string good = copy.read(kIndex);
  for (const std::string& text :
       {std::string(), std::string("null"), std::string("[]"), std::string("{}"), std::string("{\"weight_map\":[]}"),
        std::string("{\"weight_map\":{}}"), std::string("{\"weight_map\":null}"), good.substr(0, good.size() / 2),
        good + "x", std::string("{\"a\xff\":1}"), "{\"weight_map\":" + std::string(1'000'000, '[')}) {
    copy.write(kIndex, text);
    (void)copy.message(kIndex);
  }
}

TEST(HostileIndexText, RepeatsATensor) {
  const Copy copy("hf-sharded");
  std::string text = copy.read(kIndex);
  const std::string entry = "\"model.norm.weight\":";
  ASSERT_NE(text.find(entry), std::string::npos);
  text.insert(text.find(entry), entry + " \"model-00000-of-00002.safetensors\", ");
  copy.write(kIndex, text);
  copy.expect(kIndex, "the key \"model.norm.weight\" stands in it twice");
}

TEST(HostileIndexText, ShardIsTruncatedOrGone) {
  const Copy cut("hf-sharded"), gone("hf-sharded");
  const std::string shard = "model-00001-of-00002.safetensors", bytes = cut.read(shard);
  cut.write(shard, bytes.substr(0, bytes.size() - 1));
  (void)cut.message(shard);
  fs::remove(gone.dir() / shard);
  gone.expect(kIndex, shard + "\", which is not there");
}

TEST(HostileCheckpoint, TensorInTwoShards) {
  const Copy copy("hf-sharded");
  Tensors first = testing::read_tensors(copy.dir() / "model-00000-of-00002.safetensors");
  Tensors last = testing::read_tensors(copy.dir() / "model-00002-of-00002.safetensors");
  const std::string name = last.begin()->first;
  first[name] = last.begin()->second;
  testing::write_tensors(copy.dir() / "model-00000-of-00002.safetensors", first);
  copy.expect("model-00002-of-00002.safetensors",
              "tensor \"" + name + "\" is also in model-00000-of-00002.safetensors");
}

TEST(HostileCheckpoint, TensorOfAnyNameIsMissing) {
  for (const char* layout : {"hf", "hf-bf16", "openai"}) {
    const Copy copy(layout);
    const Tensors good = copy.tensors();
    for (const auto& [name, tensor] : good) {
      if (name == "embedding.weight") continue;  // by which OpenAI's layout is known
      Tensors tensors = good;
      tensors.erase(name);
      copy.write(tensors);
      copy.expect("", "tensor " + name + " is missing; expected one of shape [");
    }
  }
}

TEST(HostileCheckpoint, TensorOfAnyNameIsMisshapen) {
  for (const char* layout : {"hf", "hf-bf16", "openai"}) {
    const Copy copy(layout);
    const Tensors good = copy.tensors();
    for (const auto& [name, tensor] : good) {
      // One row less, and the same values in one dimension more.
      for (const at::Tensor& wrong : {tensor.narrow(0, 0, tensor.size(0) - 1), tensor.unsqueeze(0)}) {
        Tensors tensors = good;
        tensors[name] = wrong;
        copy.write(tensors);
        copy.expect("model.safetensors", name + ": shape [");
      }
    }
  }
}

TEST(HostileCheckpoint, TensorOfAnyNameHasAWrongDtype) {
  for (const char* layout : {"hf", "hf-bf16", "openai"}) {
    const Copy copy(layout);
    const Tensors good = copy.tensors();
    for (const auto& [name, tensor] : good) {
      const bool is_packed = tensor.scalar_type() == at::kByte;
      for (const auto dtype : {at::kHalf, at::kLong, is_packed ? at::kBFloat16 : at::kByte}) {
        Tensors tensors = good;
        tensors[name] = tensor.to(dtype);
        copy.write(tensors);
        copy.expect("model.safetensors", name + ": dtype ");
        copy.expect("model.safetensors", is_packed ? "; expected U8" : "; expected BF16 or F32");
      }
    }
  }
}

TEST(HostileCheckpoint, TensorIsUnknown) {
  for (const std::string& name :
       {std::string("model.layers.3.input_layernorm.weight"), std::string("model.rotary_emb.inv_freq"), std::string(),
        std::string("model.norm.bias"), std::string("block.0.attn.sinks")}) {
    const Copy copy("hf");
    Tensors tensors = copy.tensors();
    tensors[name] = at::zeros({32}, at::kBFloat16);
    copy.write(tensors);
    copy.expect("model.safetensors", "tensor \"" + name + "\" is not part of a gpt-oss model");
  }
}

TEST(HostileCheckpoint, NamesAreShownEscaped) {
  const Copy copy("hf");
  Tensors tensors = copy.tensors();
  tensors["x\n\x1b[2J\"\t\x7f"] = at::zeros({1}, at::kBFloat16);
  copy.write(tensors);
  copy.expect("model.safetensors", R"(x\n\u001b[2J\"\t)");
}

TEST(HostileCheckpoint, LayoutsAreMixed) {
  const std::string gate_up = "model.layers.1.mlp.experts.gate_up_proj";
  {  // of a layer one weight dense, the other packed: a layer's experts are one module to every loader
    const Copy packed("hf"), dense("hf-bf16");
    Tensors mostly_packed = packed.tensors(), mostly_dense = dense.tensors();
    const at::Tensor one_dense = mostly_dense.at(gate_up);
    mostly_dense.erase(gate_up);
    for (const char* suffix : {"_blocks", "_scales"}) {
      mostly_dense[gate_up + suffix] = mostly_packed.at(gate_up + suffix);
      mostly_packed.erase(gate_up + suffix);
    }
    mostly_packed[gate_up] = one_dense;
    packed.write(mostly_packed);
    packed.expect("", "tensor model.layers.1.mlp.experts.down_proj is missing");
    dense.write(mostly_dense);
    dense.expect("", "tensor " + gate_up + " is missing");
  }
  {  // both at once
    const Copy copy("hf-bf16");
    Tensors tensors = copy.tensors(), packed = Copy("hf").tensors();
    tensors[gate_up + "_blocks"] = packed.at(gate_up + "_blocks");
    copy.write(tensors);
    copy.expect("model.safetensors", gate_up + "_blocks\" is not part");
  }
  {  // both layouts in one file
    const Copy copy("hf");
    Tensors tensors = copy.tensors(), other = Copy("openai").tensors();
    tensors.merge(other);
    copy.write(tensors);
    (void)copy.message("model.safetensors");
  }
}

TEST(HostileCheckpoint, TransposedExpertsAreRefusedWhereShapesCanTell) {
  const Copy copy("hf-bf16");
  Tensors tensors = copy.tensors();
  at::Tensor& gate_up = tensors.at("model.layers.0.mlp.experts.gate_up_proj");  // [4, 32, 128]
  gate_up = gate_up.transpose(1, 2);
  copy.write(tensors);
  copy.expect("model.safetensors", "gate_up_proj: shape [4, 128, 32]; expected [4, 32, 128]");
}

TEST(HostileCheckpoint, ConfigIsOfAnotherModel) {
  for (const auto& [key, value] :
       {std::pair{"num_hidden_layers", 2}, std::pair{"num_hidden_layers", 4}, std::pair{"vocab_size", 129},
        std::pair{"hidden_size", 64}, std::pair{"num_local_experts", 8}, std::pair{"num_attention_heads", 2}}) {
    const Copy copy("hf");
    json config = json::parse(copy.read("config.json"));
    config[key] = value;
    config.erase("layer_types");
    copy.write("config.json", config.dump());
    EXPECT_THROW(Checkpoint{copy.dir()}, CheckpointError) << key;
  }
}

TEST(HostileCheckpoint, ScalesThatAreNoNumberInBfloat16) {
  for (const int byte : {253, 254, 255}) {
    for (const auto& [layout, name] : {std::pair{"hf", "model.layers.2.mlp.experts.down_proj_scales"},
                                       std::pair{"openai", "block.2.mlp.mlp2_weight.scales"}}) {
      const Copy copy(layout);
      Tensors tensors = copy.tensors();
      tensors.at(name)[3][31][1] = byte;  // the very last
      copy.write(tensors);
      EXPECT_NO_THROW(Checkpoint{copy.dir()});  // opening reads no tensor bytes
      copy.expect("model.safetensors", std::string(name) + ": holds the scale byte " + std::to_string(byte));
      EXPECT_THROW((void)load_model(copy.dir(), std::nullopt, at::kFloat), CheckpointError);
      tensors.at(name)[3][31][1] = kMxfp4MaxScale;
      copy.write(tensors);
      EXPECT_NO_THROW(Checkpoint(copy.dir()).check_scales());
    }
  }
}

TEST(HostileCheckpoint, NameThatIsAbsentIsRefused) {
  for (const char* layout : {"hf", "hf-bf16", "openai"}) {
    const Checkpoint checkpoint(small(layout));
    for (const char* name :
         {"", "x", "model.layers.", "model.layers.0", "model.layers.0.", "model.layers.3.self_attn.sinks",
          "model.layers.-1.self_attn.sinks", "model.layers.0.self_attn.nothing", "a\nb"}) {
      EXPECT_THROW((void)checkpoint.tensor(name), CheckpointError) << layout << " " << name;
      EXPECT_THROW((void)checkpoint.expert_weight(name), CheckpointError) << layout << " " << name;
    }
  }
}

TEST(HostileCheckpoint, OriginalOneDirectoryBelowIsFound) {
  const Scratch scratch;
  fs::copy(small("openai"), scratch.path() / "original");
  EXPECT_EQ(Checkpoint(scratch.path()).layout(), Layout::kOpenAi);
  fs::remove(scratch.path() / "original/config.json");
  EXPECT_THROW(Checkpoint{scratch.path()}, CheckpointError);
}

}  // namespace
}  // namespace ossature
