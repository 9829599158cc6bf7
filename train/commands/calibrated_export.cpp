#include "train/commands/calibrated_export.h"

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>

#include "data/sha256.h"
#include "data/token_file/vocabulary.h"
#include "train/evaluation/calibration_data.h"
#include "train/evaluation/evaluate.h"
#include "train/failure/errors.h"
#include "train/loop/interrupt.h"
#include "train/run/training_files.h"
#include "train/text/progress.h"

namespace ossature {
namespace {

std::string contents_of(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::system_error(errno, std::generic_category(), path.string());
  return {std::istreambuf_iterator<char>(in), {}};
}

/// A digest of all that the rounded codes depend on. Of the base it takes every file's name, size, time and tensors,
/// not its gigabytes; of the rest the contents.
std::string digest(const Checkpoint& base, const std::vector<WeightedAdapter>& adapters,
                   const std::vector<std::shared_ptr<const TokenFileReader>>& data, std::int64_t max_tokens) {
  std::string all;
  if (base.layout() != Layout::kGguf) all += contents_of(base.dir() / "config.json");
  std::filesystem::path last;
  for (const StoredTensor& tensor : base.stored_tensors()) {
    if (tensor.file != last) {
      last = tensor.file;
      const auto time = std::filesystem::last_write_time(last).time_since_epoch().count();
      all += last.filename().string() + " " + std::to_string(std::filesystem::file_size(last)) + " " +
             std::to_string(time) + "\n";
    }
    all += tensor.name + " " + tensor.dtype + " " + std::to_string(tensor.bytes) + "\n";
  }
  for (const auto& [dir, weight] : adapters) {
    char text[32];
    std::snprintf(text, sizeof text, "%.17g", weight);
    all += std::string(text) + " " + sha256_hex(contents_of(dir / "adapter_config.json")) + " " +
           sha256_hex(contents_of(dir / "adapter_model.safetensors")) + "\n";
  }
  for (const auto& file : data) all += file->fingerprint() + "\n";
  return sha256_hex(all + std::to_string(max_tokens));
}

using TokenFiles = std::vector<std::shared_ptr<const TokenFileReader>>;

TokenFiles opened(const std::vector<std::filesystem::path>& data, const Checkpoint& base) {
  TokenFiles files;
  for (const std::filesystem::path& path : data) {
    files.push_back(std::make_shared<const TokenFileReader>(path));
    check_vocabulary(*files.back(), base.config().vocab_size, base.dir());
  }
  return files;
}

}  // namespace

std::vector<std::filesystem::path> training_data(const std::vector<WeightedAdapter>& adapters) {
  std::vector<std::filesystem::path> found;
  for (const Recipe& recipe : run_recipes(adapters)) {
    for (const TrainingFile& file : recipe.data.train) {
      if (std::filesystem::exists(file.path) && std::find(found.begin(), found.end(), file.path) == found.end()) {
        found.push_back(file.path);
      }
    }
  }
  return found;
}

std::filesystem::path rounding_folder(const std::filesystem::path& out) {
  return (out / "").parent_path().string() + ".rounding";
}

void remove_rounding_folder(const std::filesystem::path& out) {
  const std::filesystem::path folder = rounding_folder(out);
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    if (entry.path().filename().string().starts_with("layer-")) std::filesystem::remove(entry.path(), ignored);
  }
  std::filesystem::remove(folder, ignored);  // unless something else is in it
}

void check_recovery_data(const std::vector<std::filesystem::path>& data, std::int64_t max_tokens) {
  TokenFiles files;
  for (const std::filesystem::path& path : data) files.push_back(std::make_shared<const TokenFileReader>(path));
  check_recovery_data(calibration_batches(files, max_tokens));
}

RoundedLayers round_experts(const Checkpoint& base, const Merger& merger, const std::vector<WeightedAdapter>& adapters,
                            RoundedTo grid, const std::vector<std::filesystem::path>& data, std::int64_t max_tokens,
                            const std::filesystem::path& work) {
  const TokenFiles files = opened(data, base);
  warn_of_other_tokenizer(*files.front(), base.dir());
  const std::vector<Batch> batches = calibration_batches(files, max_tokens);
  std::vector<TokenRows> rows;
  for (const Batch& batch : batches) rows.push_back(rows_of(batch));

  Transformer transformer(base, at::kBFloat16);
  merger.attach(transformer);
  transformer.read_as_used(base.config().num_hidden_layers);  // through the cache, where the rounding finds them again
  CalibratedRounding options;
  options.grid = grid;
  options.work = work;
  options.key = digest(base, adapters, files, max_tokens);
  const InterruptGuard interrupt;
  const auto stop_if_requested = [&] {
    if (!interrupt.is_requested()) return;
    throw InterruptedError("interrupted; the layers that are rounded are in " + work.string() +
                           ", and the same command goes on from there");
  };
  Progress progress("rounding");
  RoundedLayers rounded =
      round_calibrated(base, transformer, rows, options, [&](std::int64_t done, std::int64_t total) {
        stop_if_requested();
        progress.show(done, total);
      });
  stop_if_requested();
  return rounded;
}

Recovery recover_export(const Checkpoint& base, const Merger& merger, const RoundedLayers& rounded,
                        const std::vector<std::filesystem::path>& data, std::int64_t max_tokens,
                        const RecoveryOptions& options, const std::filesystem::path& work) {
  const InterruptGuard interrupt;
  const std::vector<Batch> batches = calibration_batches(opened(data, base), max_tokens);
  Progress progress("recovery");
  return recover(base, merger, rounded.replacements, batches, options, [&](std::int64_t done, std::int64_t total) {
    if (interrupt.is_requested()) {
      throw InterruptedError("interrupted; the layers that are rounded are in " + work.string() +
                             ", and the same command goes on from there, with the recovery's first step");
    }
    progress.show(done, total);
  });
}

std::string recovery_text(const Recovery& recovery) {
  char text[200];
  if (recovery.tensors.empty()) {
    std::snprintf(text, sizeof text,
                  "nothing recovered: KL divergence from base + adapter stayed %.2e nats a token or grew on held-out "
                  "samples of the calibration data",
                  recovery.kl_before);
  } else {
    std::snprintf(text, sizeof text,
                  "recovered: KL divergence from base + adapter %.2e nats a token before and %.2e after %lld steps, on "
                  "held-out samples of the calibration data",
                  recovery.kl_before, recovery.kl_after, static_cast<long long>(recovery.steps));
  }
  return text;
}

std::string gain_text(const RoundedLayers& rounded) {
  std::string text;
  for (const auto& [name, gain] :
       {std::pair("gate_up_proj", &rounded.gate_up), std::pair("down_proj", &rounded.down)}) {
    if (gain->wanted == 0.0) continue;
    char number[64];
    std::snprintf(number, sizeof number, "%.2f in %s", gain->realised / gain->wanted, name);
    text += (text.empty() ? "gain along the adapter " : ", ") + std::string(number);
  }
  return text.empty() ? "the adapter changes none" : text;
}

}  // namespace ossature
