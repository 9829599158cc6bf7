#include "model/checkpoint/companions.h"

namespace ossature {

namespace fs = std::filesystem;

std::optional<fs::path> companion_file(const fs::path& dir, const std::string& name) {
  if (fs::exists(dir / name)) return dir / name;
  if (dir.filename() == "original" && fs::exists(dir.parent_path() / name)) return dir.parent_path() / name;
  return std::nullopt;
}

void copy_companion_files(const fs::path& from, const fs::path& to) {
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
                           "generation_config.json"}) {
    if (const auto source = companion_file(from, name))
      fs::copy_file(*source, to / name, fs::copy_options::overwrite_existing);
  }
}

}  // namespace ossature
