// Writes the seeds of every fuzz target under a folder, from the fixtures: make_seeds FOLDER.
#include <fstream>
#include <nlohmann/json.hpp>

#include "data/token_file/token_file.h"
#include "model/checkpoint/gguf_config.h"
#include "model/files/gguf_header.h"
#include "model/files/safetensors_header.h"
#include "tests/data/spelled_tokens.h"
#include "tests/fuzz/fixtures.h"

namespace ossature::fuzz {
namespace {

namespace fs = std::filesystem;

const fs::path kFixtures = fs::path(OSSATURE_SOURCE_DIR) / "tests/data/fixtures";

class Seeds {
 public:
  explicit Seeds(fs::path folder) : folder_(std::move(folder)) {}
  void add(const std::string& target, std::string_view bytes) {
    std::ofstream(path(target), std::ios::binary) << bytes;
  }
  [[nodiscard]] fs::path path(const std::string& target) {
    fs::create_directories(folder_ / target);
    return folder_ / target / ("seed-" + std::to_string(count_++));
  }

 private:
  fs::path folder_;
  int count_ = 0;
};

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void add_lines(Seeds& seeds) {
  std::ifstream chats(kFixtures / "chat.jsonl");
  std::string all;
  for (std::string line; std::getline(chats, line);) {
    auto json = nlohmann::ordered_json::parse(line);
    const std::string text = json["text"];
    for (const char* key : {"text", "ids", "learned", "prompt"}) json.erase(key);
    seeds.add("sample_fuzz", json.dump());
    seeds.add("harmony_text_fuzz", text);
    seeds.add("tokenizer_fuzz", text);
    seeds.add("preview_fuzz", text);
    if (all.size() < 4000) all += json.dump() + "\n";
    std::string ids;
    for (const std::int32_t id : tokens_of(tokenizer(), text)) {
      ids += static_cast<char>(id & 0xff);
      ids += static_cast<char>(id >> 8);
    }
    seeds.add("reply_fuzz", ids);
  }
  for (const char choice : {'\0', '\4', '\x08', '\x18', '\x28', '\x40', '\x80'})
    seeds.add("records_fuzz", choice + all);
  std::ifstream texts(kFixtures / "tokens.jsonl");
  for (std::string line; std::getline(texts, line);) {
    const std::string text = nlohmann::json::parse(line)["text"];
    seeds.add("tokenizer_fuzz", text);
    seeds.add("preview_fuzz", text);
  }
  for (
      const char* other : {
          R"({"prompt": "a", "completion": "b"})",
          R"({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]})",
          R"({"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}]})",
          R"({"instruction": "i", "input": "n", "output": "o"})",
          R"({"text": "plain"})",
          R"({"harmony": "<|start|>user<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>"})",
          R"({"messages": [{"role": "system", "content": [{"type": "system_content", "model_identity": "m", "reasoning_effort": "High", "conversation_start_date": "2026-01-15", "knowledge_cutoff": "2024-06", "channel_config": {"valid_channels": ["analysis", "final"], "channel_required": true}, "tools": {"python": {"name": "python", "description": "d", "tools": []}}}]}, {"role": "developer", "content": [{"type": "developer_content", "instructions": "i", "tools": {"functions": {"name": "functions", "description": null, "tools": [{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}]}}}]}, {"role": "user", "content": [{"type": "text", "text": "t"}]}, {"role": "assistant", "channel": "commentary", "recipient": "functions.f", "content_type": "<|constrain|>json", "content": "{}", "weight": 0.5}, {"role": "tool", "name": "functions.f", "channel": "commentary", "recipient": "assistant", "content": "1"}, {"role": "assistant", "channel": "final", "content": "done"}]})",
      }) {
    seeds.add("sample_fuzz", other);
    seeds.add("records_fuzz", std::string(1, '\0') + other + "\n" + other);
    seeds.add("records_fuzz", std::string(1, '\1') + "[" + other + ",\n " + other + "]");
    seeds.add("records_fuzz", std::string(1, '\2') + other);
  }
}

void add_token_files(Seeds& seeds) {
  seeds.add("token_file_fuzz", read(kFixtures / "h5py.h5"));
  for (const int samples : {0, 1, 3, 200}) {
    TokenFileWriter writer(seeds.path("token_file_fuzz"), tokenizer().vocab_size(), tokenizer().sha256());
    for (int s = 0; s < samples; ++s) {
      const auto tokens = tokens_of(tokenizer(), "<|start|>user<|message|>" + std::to_string(s) + "<|end|>");
      writer.add(tokens, std::vector<float>(tokens.size(), s % 2 ? 0.5f : 0.0f),
                 "chats.jsonl:" + std::to_string(s + 1));
    }
    writer.finish();
  }
}

/// A model's keys, every type of value, and tensors of every type, in versions 2 and 3.
void add_gguf_files(Seeds& seeds) {
  GgufKeyValues model = {{"general.architecture", std::string("gpt-oss")}};
  for (const auto& entry : gguf_config(*preset("tiny"))) model.push_back(entry);
  GgufKeyValues types = {
      {"general.alignment", std::uint32_t{64}},
      {"u8", std::uint8_t{1}},
      {"i8", std::int8_t{-1}},
      {"u16", std::uint16_t{2}},
      {"i16", std::int16_t{-2}},
      {"i32", std::int32_t{-3}},
      {"u64", std::uint64_t{4}},
      {"i64", std::int64_t{-4}},
      {"f32", 0.5f},
      {"f64", 0.25},
      {"bool", true},
      {"str", std::string("text")},
      {"arr[i32]", GgufArray(std::vector<std::int32_t>{1, 2})},
      {"arr[bool]", GgufArray(std::vector<bool>{true, false})},
      {"arr[f64]", GgufArray(std::vector<double>{0.5})},
      {"tokenizer.ggml.tokens", GgufArray(std::vector<std::string>{"a", "", "bc"})},
  };
  std::vector<GgufTensor> tensors = {{"token_embd.weight", GgmlType::kBF16, {32, 2}},
                                     {"output_norm.weight", GgmlType::kF32, {5}},
                                     {"blk.0.ffn_gate_exps.weight", GgmlType::kMxfp4, {2, 1, 32}},
                                     {"empty", GgmlType::kF32, {0}}};
  for (const GgufKeyValues* values : {&model, &types}) {
    for (const bool has_tensors : {true, false}) {
      std::vector<GgufTensor> none;
      std::string bytes = gguf_header_bytes(*values, has_tensors ? tensors : none, "seed");
      if (has_tensors) bytes.resize(bytes.size() + tensors.back().end, '\1');
      seeds.add("gguf_fuzz", bytes);
      bytes[4] = '\2';
      seeds.add("gguf_fuzz", bytes);
    }
  }
}

/// Tensors of 4,096 bytes together.
void add_safetensors_headers(Seeds& seeds) {
  const std::vector<TensorInfo> tensors = {
      {"model.norm.weight", DType::kBF16, {32, 32}, 0, 2048},
      {"model.layers.0.mlp.experts.down_proj_blocks", DType::kU8, {4, 256}, 2048, 3072},
      {"empty", DType::kF32, {0, 7}, 3072, 3072},
      {"scalar", DType::kF64, {}, 3072, 3080},
      {"rest", DType::kI64, {127}, 3080, 4096}};
  seeds.add("safetensors_fuzz", safetensors_header_json(tensors, {}, "seed"));
  seeds.add("safetensors_fuzz", safetensors_header_json(tensors, {{"format", "pt"}, {"é", ""}}, "seed"));
}

}  // namespace
}  // namespace ossature::fuzz

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  ossature::fuzz::Seeds seeds(argv[1]);
  ossature::fuzz::add_lines(seeds);
  seeds.add("tokenizer_file_fuzz", ossature::fuzz::read(ossature::fuzz::kFixtures / "tokenizer.json"));
  ossature::fuzz::add_token_files(seeds);
  ossature::fuzz::add_gguf_files(seeds);
  ossature::fuzz::add_safetensors_headers(seeds);
}
