#include "train/loop/rank_agreement.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <string_view>

#include "data/token_file/crc32c.h"
#include "train/recipe/recipe_keys.h"
#include "train/run/version.h"

namespace ossature {
namespace {

using Json = nlohmann::ordered_json;

/// Where things lie on a machine, and how it works on its part: the results are the same.
bool may_differ(const RecipeKey& key) {
  constexpr std::array<std::string_view, 10> kLocal = {
      "base_model",    "output_dir",         "device",          "data.train",    "data.validation", "data.num_workers",
      "train.threads", "train.memory_limit", "train.recompute", "lora.init_from"};
  return std::find(kLocal.begin(), kLocal.end(), key.path) != kLocal.end();
}

/// Of a page of each tensor: enough to tell one model from another, and done in a moment where reading all would take
/// minutes.
std::string digest(const Checkpoint& base) {
  constexpr std::size_t kLookedAt = 4096;
  std::uint32_t sum = 0;
  std::size_t bytes_in_all = 0;
  for (std::int64_t n = 0; n < base.config().num_hidden_layers; ++n) {
    for (const MappedPart& part : base.layer_parts(n)) {
      sum = crc32c(part.bytes.data(), std::min(part.bytes.size(), kLookedAt), sum);
      bytes_in_all += part.bytes.size();
    }
  }
  return std::to_string(base.config().num_hidden_layers) + " layers, " + std::to_string(bytes_in_all) +
         " bytes in them, CRC-32C of their beginnings " + std::to_string(sum);
}

Json identity(const Recipe& recipe, const Checkpoint& base, const RunFiles& files) {
  const std::string version = version_text();
  Json json = {{"the program", version.substr(0, version.find('\n'))}, {"the base model", digest(base)}};
  for (std::size_t i = 0; i < files.training.size(); ++i) {
    json["training file " + std::to_string(i + 1)] = std::to_string(files.training[i].file->num_tokens()) +
                                                     " tokens, contents " + files.training[i].file->fingerprint() +
                                                     ", weight " + Json(files.training[i].weight).dump();
  }
  if (files.validation) json["the validation file"] = "contents " + files.validation->fingerprint();
  for (const RecipeKey& key : recipe_keys()) {
    if (!may_differ(key)) json[key.path] = key.get(recipe);
  }
  return json;
}

}  // namespace

void check_agreement(Ranks& ranks, const Recipe& recipe, const Checkpoint& base, const RunFiles& files) {
  if (ranks.size() == 1) return;
  const Json own = identity(recipe, base, files);
  const Json first = Json::parse(ranks.gather(own.dump(-1, ' ', false, Json::error_handler_t::replace)).front());
  const auto text_of = [](const Json& json, const std::string& key) {
    return json.contains(key) ? json.at(key).get<std::string>() : "absent";
  };
  std::string differences;
  Json both = first;
  both.update(own);
  for (const auto& [key, value] : both.items()) {
    if (text_of(own, key) == text_of(first, key)) continue;
    differences += (differences.empty() ? "" : "\n") + key + ": " + text_of(own, key) + " here, " +
                   text_of(first, key) + " on " + ranks.name_of(0);
  }
  together(ranks, [&] {
    if (!differences.empty())
      throw RecipeError("the ranks are not at the same work; expected equal files and recipes:\n" + differences);
  });
}

}  // namespace ossature
