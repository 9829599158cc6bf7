// A directory with small inputs for one test, and what every command is held to.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/cli/run_program.h"
#include "tests/malformed/scratch.h"

namespace ossature {

/// The model of a few megabytes that comes with the program; its tokenizer has 4,096 ids.
inline const std::filesystem::path kEmbedded = std::filesystem::path(OSSATURE_SOURCE_DIR) / "recipes/embedded/model";

/// Standard output of a command that must succeed.
inline std::string output_of(const std::vector<std::string>& arguments) {
  const ProgramResult result = run_program(arguments);
  EXPECT_EQ(result.exit_code, 0) << arguments.front() << ": " << result.err;
  EXPECT_EQ(result.err.find("error"), std::string::npos) << result.err;
  return result.out;
}

/// What a command prints with --json: one JSON value and nothing else.
inline nlohmann::json json_of(std::vector<std::string> arguments) {
  arguments.push_back("--json");
  auto value = nlohmann::json::parse(output_of(arguments), nullptr, /*allow_exceptions=*/false);
  EXPECT_FALSE(value.is_discarded()) << arguments.front();
  return value;
}

/// The JSON values of a file that has one on each line.
inline std::vector<nlohmann::json> lines_of(const std::string& file) {
  std::vector<nlohmann::json> lines;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

class Workspace {
 public:
  [[nodiscard]] std::string path(const std::string& name) const { return (scratch_.path() / name).string(); }
  std::string write(const std::string& name, const std::string& text) const { return scratch_.write(name, text); }

  /// The first `count` of the embedded model's conversations.
  [[nodiscard]] std::string conversations(int count) const {
    std::ifstream all(std::filesystem::path(OSSATURE_SOURCE_DIR) / "recipes/embedded/conversations-train.jsonl");
    std::string text, line;
    for (int i = 0; i < count && std::getline(all, line); ++i) text += line + "\n";
    return write("conversations.jsonl", text);
  }
  /// Those, as the token file `name`.
  [[nodiscard]] std::string tokens(int count, const std::string& name = "tokens.h5") const {
    output_of({"prepare", conversations(count), "--tokenizer", kEmbedded, "--date", "none", "--out", path(name)});
    return path(name);
  }
  /// The config.json of a model with the embedded one's vocabulary that is quick to train.
  [[nodiscard]] std::string small_config() const {
    auto config = nlohmann::json::parse(std::ifstream(kEmbedded / "config.json"));
    config["num_hidden_layers"] = 2;
    config["layer_types"] = {"sliding_attention", "full_attention"};
    config["hidden_size"] = config["intermediate_size"] = 32;
    config["num_attention_heads"] = 4;
    config["head_dim"] = 8;
    config["num_local_experts"] = 4;
    return write("config.json", config.dump());
  }
  /// A checkpoint of that shape.
  [[nodiscard]] std::string small_model() const {
    output_of({"init", small_config(), "--tokenizer", kEmbedded, "--out", path("small")});
    return path("small");
  }

  /// A checkpoint whose tensors are all zero and take at least `bytes`, but no room on the disk: a file with a hole.
  [[nodiscard]] std::string hollow_model(std::uint64_t bytes) const {
    auto config = nlohmann::json::parse(std::ifstream(small_config()));
    for (const char* key : {"eos_token_id", "pad_token_id"}) config.erase(key);
    const std::uint64_t hidden = 65536;
    config["hidden_size"] = hidden;
    config["vocab_size"] = 64;
    const std::string dir = path("hollow");
    output_of({"init", write("hollow.json", config.dump()), "--out", dir});
    const std::uint64_t vocabulary = bytes / (4 * hidden) + 64;  // embedding and head are bfloat16
    config = nlohmann::json::parse(std::ifstream(dir + "/config.json"));
    config["vocab_size"] = vocabulary;
    write("hollow/config.json", config.dump());

    const std::string weights = dir + "/model.safetensors", stored = read_bytes(weights);
    std::uint64_t length = 0;
    std::memcpy(&length, stored.data(), sizeof length);
    auto header = nlohmann::ordered_json::parse(stored.substr(sizeof length, length));
    std::uint64_t end = 0;
    for (auto& [name, tensor] : header.items()) {
      if (name == "__metadata__") continue;
      std::uint64_t size = tensor["dtype"] == "U8" ? 1 : tensor["dtype"] == "F32" ? 4 : 2;
      if (name == "model.embed_tokens.weight" || name == "lm_head.weight") tensor["shape"][0] = vocabulary;
      for (const std::uint64_t dimension : tensor["shape"]) size *= dimension;
      tensor["data_offsets"] = {end, end + size};
      end += size;
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    length = text.size();
    write("hollow/model.safetensors", std::string(reinterpret_cast<const char*>(&length), sizeof length) + text);
    std::filesystem::resize_file(weights, sizeof length + text.size() + end);
    return dir;
  }

  /// Every file and directory here, files with their bytes.
  [[nodiscard]] std::map<std::string, std::string> contents() const {
    std::map<std::string, std::string> found;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(scratch_.path()))
      found[entry.path()] = entry.is_regular_file() ? read_bytes(entry.path()) : "directory";
    return found;
  }

  /// The command must exit with `exit_code`, print one error that has all of `mentions` and no result, and change
  /// nothing here.
  void expect_failure(const std::vector<std::string>& arguments, int exit_code,
                      const std::vector<std::string>& mentions, const ProgramOptions& options = {}) const {
    std::string line = "ossature";
    for (const std::string& argument : arguments) line += " " + argument;
    SCOPED_TRACE(line);
    const auto before = contents();
    const ProgramResult result = run_program(arguments, options);
    EXPECT_EQ(result.exit_code, exit_code);
    EXPECT_EQ(result.out, "");
    const std::size_t error = result.err.find("ossature: error: ");
    ASSERT_NE(error, std::string::npos) << result.err;
    EXPECT_TRUE(error == 0 || result.err[error - 1] == '\n') << result.err;
    EXPECT_EQ(result.err.find("ossature: error: ", error + 1), std::string::npos) << result.err;
    EXPECT_TRUE(result.err.ends_with('\n')) << result.err;
    for (const std::string& mention : mentions)
      EXPECT_NE(result.err.find(mention, error), std::string::npos) << mention << " is not in\n" << result.err;
    const auto after = contents();
    for (const auto& [name, bytes] : after) EXPECT_TRUE(before.count(name)) << name << " was left behind";
    EXPECT_TRUE(before == after) << "files have changed";
  }

 private:
  Scratch scratch_;
};

}  // namespace ossature
