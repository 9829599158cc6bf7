#include "train/reports/model_card.h"

#include <array>
#include <fstream>
#include <iterator>
#include <string_view>

#include "data/sha256.h"
#include "model/files/checkpoint_error.h"
#include "model/files/gguf_header.h"
#include "model/files/safetensors_header.h"
#include "train/text/number_text.h"
#include "train/text/visible_text.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;

/// Text of others, in a table cell or a sentence: one line, and no mark-up of its own.
std::string plain(const std::string& text) {
  std::string out;
  for (const char character : visible_line(text)) {
    if (std::string_view("\\`*_{}[]<>|#").find(character) != std::string_view::npos) out += '\\';
    out += character;
  }
  return out;
}

/// A string in YAML's double quotes, whose escapes are JSON's.
std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char character : visible_line(text)) {
    if (character == '"' || character == '\\') out += '\\';
    out += character;
  }
  return out + "\"";
}

std::string metadata(const ModelCard& card) {
  std::string text = "---\n";
  if (card.base_model) {
    text += "base_model: " + quoted(*card.base_model) + "\n";
    if (!card.adapters.empty()) {
      text += "base_model_relation: finetune\n";
    } else if (!card.rounding.empty()) {
      text += "base_model_relation: quantized\n";
    }
  }
  if (card.license) text += "license: " + quoted(*card.license) + "\n";
  if (card.format == "hf") text += "library_name: transformers\n";
  if (card.format == "gguf") text += "library_name: gguf\n";
  return text + "pipeline_tag: text-generation\ntags:\n- gpt_oss\n- ossature\n" +
         (card.adapters.empty() ? "" : "- lora\n") + "---\n";
}

std::string layers_text(const std::vector<std::int64_t>& layers) {
  std::string text;
  for (const std::int64_t layer : layers) text += (text.empty() ? "" : ", ") + std::to_string(layer);
  return text;
}

std::string storage(const ModelCard& card) {
  std::string text = "Experts are stored in ";
  if (card.experts == "mixed") {
    text += "MXFP4, those of layers " + layers_text(card.bf16_expert_layers) + " in bfloat16";
  } else {
    text += card.experts == "bf16" ? "bfloat16" : "MXFP4";
  }
  if (card.rounding == "nearest") text += "; merged experts were rounded to the nearest values of the grid";
  if (card.rounding == "calibrated") text += "; merged experts were rounded with calibration data";
  if (card.recovered_steps > 0) {
    text += ", and their biases were then trained for " + std::to_string(card.recovered_steps) +
            " steps to predict what base and adapter do (recovered). Other tensors";
  } else {
    text += ". Tensors";
  }
  return text + " that no adapter changes have the bytes of the base.\n";
}

std::string sources_table(const ModelCard& card) {
  std::string text = "| what | weight | file | bytes | SHA-256 |\n|---|---|---|---|---|\n";
  const auto rows = [&](const std::string& what, const CardSource& source, const std::string& weight) {
    for (const CardFile& file : source.files) {
      text += "| " + what + " " + plain(source.name) + " | " + weight + " | " + plain(file.name) +
              (file.header_only ? " (header)" : "") + " | " + std::to_string(file.bytes) + " | `" + file.sha256 +
              "` |\n";
    }
  };
  rows("base", card.base, "");
  for (const CardSource& adapter : card.adapters) rows("adapter", adapter, number_text("%.6g", adapter.weight));
  return text;
}

std::string figures(const CardVerification& found) {
  std::string text = "Measured after writing, on " + std::to_string(found.tokens) + " held-out tokens of " +
                     plain(found.data) + ":\n\n| | |\n|---|---|\n";
  const auto row = [&](const std::string& name, const std::string& value) {
    text += "| " + name + " | " + value + " |\n";
  };
  row("loss of the base", number_text("%.4f", found.base_loss));
  row("loss of base and adapter", number_text("%.4f", found.adapter_loss));
  row("loss of this model", number_text("%.4f", found.export_loss));
  if (found.retention) row("retention of what was learned", number_text("%.1f %%", 100 * *found.retention));
  row("KL divergence from base and adapter", number_text("%.3g", found.kl_divergence));
  row("same most likely token", number_text("%.2f %%", 100 * found.top1_agreement));
  return text;
}

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(in), {}};
  if (!in) throw CheckpointError(path.string() + ": cannot be read; expected a file of the export's sources");
  return bytes;
}

/// The length and the JSON text of a safetensors header.
std::string read_safetensors_header(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::array<unsigned char, 8> length{};
  in.read(reinterpret_cast<char*>(length.data()), length.size());
  std::uint64_t bytes = 0;
  for (std::size_t i = length.size(); i-- > 0;) bytes = bytes << 8 | length[i];
  if (!in || bytes > kMaxSafetensorsHeaderBytes)
    throw CheckpointError(path.string() + ": no safetensors header; expected a weights file");
  std::string header(length.begin(), length.end());
  header.resize(length.size() + bytes);
  in.read(header.data() + length.size(), static_cast<std::streamsize>(bytes));
  if (!in) throw CheckpointError(path.string() + ": ends within its header; the file is truncated");
  return header;
}

/// Of a weights file.
std::string read_header(const fs::path& path) {
  if (path.extension() != ".gguf") return read_safetensors_header(path);
  const auto file = MappedFile::open(path, "a GGUF file", 1, "a header");
  const GgufHeader header = parse_gguf_header(file->bytes(), path.string());
  return {reinterpret_cast<const char*>(file->bytes().data()), header.data_offset};
}

}  // namespace

std::string to_markdown(const ModelCard& card) {
  std::string text = metadata(card) + "\n# " + plain(card.base.name);
  for (const CardSource& adapter : card.adapters) text += " + " + plain(adapter.name);
  text += "\n\n";
  if (card.adapters.empty()) {
    text += plain(card.base.name) + " in another layout, written by Ossature " + card.version + ".\n";
  } else {
    text += plain(card.base.name) + " with";
    for (std::size_t i = 0; i < card.adapters.size(); ++i) {
      const CardSource& adapter = card.adapters[i];
      text += std::string(i > 0 ? ", and" : "") + " the LoRA adapter " + plain(adapter.name);
      if (adapter.weight != 1.0) text += " times " + number_text("%.6g", adapter.weight);
    }
    text += " merged into its weights by Ossature " + card.version + ".\n";
  }
  text += "\n" + storage(card) + "\n## Made from\n\n" + sources_table(card);
  if (card.verification) text += "\n## Verification\n\n" + figures(*card.verification);
  return text;
}

CardSource card_source(const fs::path& dir, const std::vector<fs::path>& files) {
  const fs::path whole = fs::weakly_canonical(dir / "");
  fs::path named = whole.has_filename() ? whole : whole.parent_path();
  if (named.filename() == "original") named = named.parent_path();
  CardSource source;
  source.name = named.filename().string();
  for (const fs::path& path : files) {
    const bool header_only = path.extension() == ".gguf" ||
                             (path.extension() == ".safetensors" && path.filename() != "adapter_model.safetensors");
    const std::string digest = sha256_hex(header_only ? read_header(path) : read_file(path));
    source.files.push_back({path.filename().string(), fs::file_size(path), digest, header_only});
  }
  return source;
}

std::optional<std::string> hub_name(const std::string& base_model_name_or_path) {
  constexpr std::string_view kAllowed =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_./";  // of the hub's own names
  const std::string& name = base_model_name_or_path;
  const auto slash = name.find('/');
  const bool is_name = slash != std::string::npos && slash > 0 && slash + 1 < name.size() && slash == name.rfind('/') &&
                       name.front() != '.' && name.find_first_not_of(kAllowed) == std::string::npos;
  return is_name && !fs::exists(name) ? std::optional(name) : std::nullopt;
}

std::optional<std::string> front_matter(const fs::path& dir, const std::string& key) {
  std::ifstream in(dir / "README.md");
  std::string line;
  const auto next = [&] {
    if (!std::getline(in, line)) return false;
    if (line.ends_with('\r')) line.pop_back();
    return true;
  };
  if (!next() || line != "---") return std::nullopt;
  while (next() && line != "---") {
    if (!line.starts_with(key + ":")) continue;
    std::string value = line.substr(key.size() + 1);
    while (value.starts_with(' ')) value.erase(0, 1);
    while (value.ends_with(' ')) value.pop_back();
    if (value.size() >= 2 && value.front() == value.back() && (value.front() == '"' || value.front() == '\''))
      value = value.substr(1, value.size() - 2);
    if (value.empty()) return std::nullopt;  // a list follows, or nothing
    return value;
  }
  return std::nullopt;
}

}  // namespace ossature
