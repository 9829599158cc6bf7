#include "data/token_file/vocabulary.h"

#include <string>

namespace ossature {

void check_vocabulary(const TokenFileReader& file, std::int64_t vocab_size, const std::filesystem::path& model) {
  if (file.vocab_size() <= vocab_size) return;
  throw DataError(file.path().string() + ": made with a vocabulary of " + std::to_string(file.vocab_size()) + ", but " +
                  model.string() + " has " + std::to_string(vocab_size) +
                  "; prepare it with the tokenizer of that model");
}

void check_same_tokenizer(std::span<const std::shared_ptr<const TokenFileReader>> files) {
  const TokenFileReader* known = nullptr;  // the first whose tokenizer.json is known
  for (const auto& file : files) {
    const TokenFileReader& first = *files.front();
    if (file->vocab_size() != first.vocab_size()) {
      throw DataError(file->path().string() + ": made with a vocabulary of " + std::to_string(file->vocab_size()) +
                      ", but " + first.path().string() + " with one of " + std::to_string(first.vocab_size()) +
                      "; prepare both with the tokenizer of the model");
    }
    if (file->tokenizer_sha256().empty()) continue;
    if (known == nullptr) known = file.get();
    if (file->tokenizer_sha256() == known->tokenizer_sha256()) continue;
    constexpr std::size_t kShown = 12;
    throw DataError(file->path().string() + ": made with another tokenizer.json (SHA-256 " +
                    file->tokenizer_sha256().substr(0, kShown) + "...) than " + known->path().string() + " (" +
                    known->tokenizer_sha256().substr(0, kShown) + "...); prepare both with the tokenizer of the model");
  }
}

}  // namespace ossature
