#include "train/chat/model_tokenizer.h"

#include <cerrno>
#include <cstdlib>
#include <string>
#include <system_error>

#include "model/checkpoint/gguf_tokenizer.h"

namespace ossature {
namespace {

/// A folder for a while.
class ScratchFolder {
 public:
  ScratchFolder() : path_((std::filesystem::temp_directory_path() / "ossature-XXXXXX").string()) {
    if (::mkdtemp(path_.data()) == nullptr) throw std::system_error(errno, std::generic_category(), path_);
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  [[nodiscard]] std::filesystem::path path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace

Tokenizer tokenizer_of(const std::filesystem::path& model) {
  if (std::filesystem::is_directory(model)) return Tokenizer::load(model);
  const ScratchFolder folder;
  write_gguf_tokenizer(*GgufFile::open(model), folder.path());
  if (!std::filesystem::exists(folder.path() / "tokenizer.json"))
    throw DataError(model.string() +
                    ": it has no tokenizer of gpt-oss's kind (tokenizer.ggml.pre: gpt-4o); expected a "
                    "file that was converted with its tokenizer");
  return Tokenizer::load(folder.path());
}

}  // namespace ossature
