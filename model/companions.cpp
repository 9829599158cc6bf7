#include "model/companions.h"

namespace ossature {

namespace fs = std::filesystem;

void copy_companion_files(const fs::path& from, const fs::path& to) {
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
                           "generation_config.json"}) {
    fs::path source = from / name;
    if (!fs::exists(source) && from.filename() == "original") source = from.parent_path() / name;
    if (fs::exists(source)) fs::copy_file(source, to / name, fs::copy_options::overwrite_existing);
  }
}

}  // namespace ossature
