#include "model/checkpoint/checkpoint_files.h"

#include <map>
#include <set>
#include <string>

#include <nlohmann/json.hpp>

#include "model/files/json_file.h"
#include "model/files/safetensors_header.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Files = std::vector<std::shared_ptr<const SafetensorsFile>>;

constexpr std::uintmax_t kMaxIndexBytes = 64 << 20;
constexpr std::string_view kAdvice = "; copy the index and its shards anew";

/// The plain name of a safetensors file, without any directory.
bool is_shard_name(const json& name) {
  if (!name.is_string()) return false;
  const auto text = name.get<std::string>();
  return text.find('\0') == std::string::npos && fs::path(text).filename() == text && text.ends_with(".safetensors");
}

Files open_indexed(const fs::path& index) {
  const std::string where = index.string();
  const json root = read_json_object(index, kMaxIndexBytes, kAdvice);
  const auto weight_map = root.find("weight_map");
  if (weight_map == root.end() || !weight_map->is_object() || weight_map->empty()) {
    fail_json(where, "weight_map is " + (weight_map == root.end() ? "missing" : shown(*weight_map)),
              "an object that names the file of every tensor", kAdvice);
  }
  std::map<std::string, std::shared_ptr<const SafetensorsFile>> shards;
  for (const auto& [tensor, name] : weight_map->items()) {
    const std::string entry = "weight_map[" + escaped(tensor) + "] is " + shown(name);
    if (!is_shard_name(name)) fail_json(where, entry, "the name of a *.safetensors file beside the index", kAdvice);
    auto& shard = shards[name.get<std::string>()];
    if (shard == nullptr) {
      const fs::path path = index.parent_path() / name.get<std::string>();
      std::error_code ignored;
      if (!fs::exists(path, ignored)) fail_json(where, entry + ", which is not there", "that file beside it", kAdvice);
      shard = SafetensorsFile::open(path);
    }
    if (shard->find(tensor) == nullptr)
      fail_json(where, entry + ", which has no such tensor", "the file that holds it", kAdvice);
  }
  Files files;
  for (const auto& [name, shard] : shards) files.push_back(shard);
  return files;
}

}  // namespace

Files open_checkpoint_files(const fs::path& dir) {
  const fs::path index = dir / "model.safetensors.index.json", single = dir / "model.safetensors";
  if (fs::exists(index)) return open_indexed(index);
  if (fs::exists(single)) return {SafetensorsFile::open(single)};
  std::set<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(dir)) {
    if (entry.path().extension() == ".safetensors") paths.insert(entry.path());
  }
  if (paths.empty()) {
    throw CheckpointError(dir.string() + ": no *.safetensors file; expected at least one; give the directory of a " +
                          "checkpoint");
  }
  Files files;
  for (const fs::path& path : paths) files.push_back(SafetensorsFile::open(path));
  return files;
}

}  // namespace ossature
