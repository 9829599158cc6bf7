#include "train/run/training_files.h"

#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

#include "data/data_error.h"
#include "data/sha256.h"
#include "data/token_file/vocabulary.h"
#include "train/text/visible_text.h"

namespace ossature {
namespace {

std::shared_ptr<const TokenFileReader> open_checked(const std::filesystem::path& path, const Checkpoint& base) {
  auto file = std::make_shared<const TokenFileReader>(path);
  check_vocabulary(*file, base.config().vocab_size, base.dir());
  if (file->num_samples() == 0)
    throw DataError(path.string() + ": holds no sample; prepare it from files that have some");
  return file;
}

std::string shown(double weight) {
  std::ostringstream text;
  text << weight;
  return text.str();
}

std::string describe(const TrainingFileIdentity& file) {
  constexpr std::size_t kShown = 12;
  return std::to_string(file.samples) + " samples, " + std::to_string(file.tokens) + " tokens, contents " +
         file.fingerprint.substr(0, kShown) + ", weight " + shown(file.weight);
}

}  // namespace

LoaderOptions loader_options(const Recipe& recipe) {
  LoaderOptions options;
  options.sequence_length = recipe.data.sequence_length;
  options.packing = recipe.data.packing;
  options.shuffle = recipe.data.shuffle;
  options.seed = static_cast<std::uint64_t>(recipe.train.seed);
  options.micro_batch_size = recipe.train.micro_batch_size;
  options.num_workers = recipe.data.num_workers;
  return options;
}

void warn_of_other_tokenizer(const TokenFileReader& file, const std::filesystem::path& model) {
  const std::filesystem::path own = model / "tokenizer.json";
  if (file.tokenizer_sha256().empty()) return;
  std::ifstream in(own, std::ios::binary);
  if (!in) return;
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  if (sha256_hex(text) == file.tokenizer_sha256()) return;
  std::cerr << "warning: " << visible_line(file.path().string()) << " was made with another tokenizer than "
            << visible_line(own.string()) << "; unless the two say the same, prepare it anew with that one\n";
}

RunFiles open_run_files(const Recipe& recipe, const Checkpoint& base) {
  RunFiles files;
  std::vector<std::shared_ptr<const TokenFileReader>> all;
  for (const TrainingFile& file : recipe.data.train) {
    all.push_back(open_checked(file.path, base));
    files.training.push_back({all.back(), file.weight});
  }
  if (recipe.data.validation) {
    files.validation = open_checked(*recipe.data.validation, base);
    all.push_back(files.validation);
  }
  check_same_tokenizer(all);
  for (const auto& file : all) file->verify();
  return files;
}

std::vector<TrainingFileIdentity> identify(const std::vector<WeightedFile>& files) {
  std::vector<TrainingFileIdentity> identities;
  for (const auto& [file, weight] : files) {
    identities.push_back({file->fingerprint(), file->num_samples(), file->num_tokens(), weight});
  }
  return identities;
}

std::string difference(const std::vector<TrainingFileIdentity>& begun, const std::vector<WeightedFile>& files) {
  const std::vector<TrainingFileIdentity> now = identify(files);
  if (begun.size() != now.size()) {
    return "the run began with " + std::to_string(begun.size()) + " training files, data.train names " +
           std::to_string(now.size());
  }
  for (std::size_t i = 0; i < now.size(); ++i) {
    if (begun[i] == now[i]) continue;
    return files[i].file->path().string() + " has " + describe(now[i]) + "; in its place the run began with " +
           describe(begun[i]);
  }
  return "";
}

std::string names_of(const std::vector<TrainingFile>& files) {
  std::string text;
  for (const TrainingFile& file : files) {
    text += (text.empty() ? "" : ", ") + file.path.string();
    if (file.weight != 1.0) text += " (weight " + shown(file.weight) + ")";
  }
  return text;
}

}  // namespace ossature
