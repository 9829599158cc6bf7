// What the fuzz targets share: the fixture's tokenizer, files of their input, and what every rendered sample must be.
#pragma once

#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "data/harmony/harmony.h"
#include "data/harmony/segments.h"
#include "data/utf8.h"

namespace ossature::fuzz {

/// A finding that no sanitizer sees.
inline void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "fuzz: %s\n", what);
  std::abort();
}

inline const Tokenizer& tokenizer() {
  static const Tokenizer fixture = Tokenizer::load(std::filesystem::path(OSSATURE_SOURCE_DIR) / "tests/data/fixtures");
  return fixture;
}

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// A file with the input, in memory where the system has such a place; removed at exit.
class InputFile {
 public:
  explicit InputFile(const std::string& extension) {
    const std::filesystem::path memory = "/dev/shm";
    const auto directory = std::filesystem::is_directory(memory) ? memory : std::filesystem::temp_directory_path();
    path_ = directory / ("ossature-fuzz-" + std::to_string(getpid()) + extension);
  }
  ~InputFile() {
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::filesystem::path& write(std::string_view bytes) const {
    std::ofstream(path_, std::ios::binary) << bytes;
    return path_;
  }

 private:
  std::filesystem::path path_;
};

/// A message for people: not empty, and short enough to read.
inline void check_message(const std::exception& error) {
  const std::string_view what = error.what();
  require(!what.empty() && what.size() < 4096, "an error message is empty or very long");
}

inline void check_sample(const RenderedSample& sample) {
  require(sample.tokens.size() == sample.loss_weights.size(), "tokens and weights differ in number");
  for (const std::int32_t id : sample.tokens) {
    require(id >= 0 && id < tokenizer().vocab_size(), "an id is outside of the vocabulary");
  }
  for (const float weight : sample.loss_weights) require(std::isfinite(weight) && weight >= 0.0f, "a weight is wrong");
  require(sample.loss_weights.empty() || sample.loss_weights[0] == 0.0f, "the first token is learned");
  const std::string text = tokenizer().decode(sample.tokens);
  require(valid_utf8_prefix(text) == text.size(), "a rendered sample is not UTF-8");
}

/// One renderer for each way of rendering.
inline const std::vector<Harmony>& renderers() {
  static const std::vector<Harmony> all = [] {
    std::vector<Harmony> made;
    for (const auto renderer : {HarmonyRenderer::kTemplate, HarmonyRenderer::kHarmony}) {
      for (const auto turns : {LearnedTurns::kAll, LearnedTurns::kLast, LearnedTurns::kExpand}) {
        HarmonyOptions options;
        options.renderer = renderer;
        options.learn.turns = turns;
        options.keep_analysis = renderer == HarmonyRenderer::kHarmony && turns == LearnedTurns::kAll;
        options.learn.analysis = 0.5f;
        options.learn.user = turns == LearnedTurns::kLast ? 1.0f : 0.0f;
        made.emplace_back(tokenizer(), options);
      }
    }
    return made;
  }();
  return all;
}

}  // namespace ossature::fuzz
