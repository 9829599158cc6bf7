// README.md of an export: what was merged from what, how experts were rounded, and what the verification found.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace ossature {

/// A file that went into an export. Of a weights file only its header is digested: names, shapes, dtypes and places.
struct CardFile {
  std::string name;
  std::uint64_t bytes = 0;  // of the whole file
  std::string sha256;       // 64 hexadecimal digits
  bool header_only = false;
};

struct CardSource {
  std::string name;     // the directory's own name, or the name on the hub: never a path
  double weight = 1.0;  // of an adapter
  std::vector<CardFile> files;
};

/// Figures on held-out data, nats a token.
struct CardVerification {
  std::string data;  // name of the token file
  std::int64_t tokens = 0;
  double base_loss = 0.0, adapter_loss = 0.0, export_loss = 0.0;
  std::optional<double> retention = {};  // (base - export) / (base - adapter), where the adapter lowers the loss
  double kl_divergence = 0.0;            // of the export from base + adapter
  double top1_agreement = 0.0;           // share of 1
};

struct ModelCard {
  std::string version;  // of the program
  CardSource base;
  std::vector<CardSource> adapters;
  std::string format;                            // "hf", "openai", "gguf"
  std::string experts;                           // "mxfp4", "bf16", "mixed"
  std::string rounding;                          // "nearest", "calibrated"; "" where no expert was rounded
  std::int64_t recovered_steps = 0;              // of export --recover; 0 where it was not asked for or nothing helped
  std::vector<std::int64_t> bf16_expert_layers;  // of "mixed"
  std::optional<std::string> base_model;         // name on the hub, "openai/gpt-oss-20b"
  std::optional<std::string> license;            // as the base's card says
  std::optional<CardVerification> verification;
};

/// Markdown with the front matter that the hub reads.
[[nodiscard]] std::string to_markdown(const ModelCard& card);

/// What `dir` holds of a base or an adapter, with the digests of `files`; of a weights file other than an adapter's, of
/// its header. The name is that of the directory, or of the one above "original". Throws CheckpointError if a file
/// cannot be read.
[[nodiscard]] CardSource card_source(const std::filesystem::path& dir, const std::vector<std::filesystem::path>& files);

/// The name on the hub of the base that an adapter names ("openai/gpt-oss-20b"); nullopt if that is a directory, or
/// nothing that could be one.
[[nodiscard]] std::optional<std::string> hub_name(const std::string& base_model_name_or_path);

/// The value of a key of one line, such as "license", in the front matter of `dir`/README.md; nullopt if there is none.
[[nodiscard]] std::optional<std::string> front_matter(const std::filesystem::path& dir, const std::string& key);

}  // namespace ossature
