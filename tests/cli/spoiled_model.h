// A model whose loss is not finite where one token is.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "data/token_file/token_file.h"
#include "tests/cli/workspace.h"

namespace ossature {

/// A token that sample `s` of `file` has and no other sample.
inline std::int32_t token_of_one_sample(const std::string& file, std::size_t s) {
  const TokenFileReader reader(file);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(reader.num_tokens()));
  reader.read_tokens(0, tokens);
  const auto begin = tokens.begin() + reader.sample_offsets()[s], end = tokens.begin() + reader.sample_offsets()[s + 1];
  std::set<std::int32_t> others(tokens.begin(), begin);
  others.insert(end, tokens.end());
  const auto found = std::find_if(begin, end, [&](std::int32_t token) { return !others.contains(token); });
  return found != end ? *found : -1;
}

/// Makes the embedding of one token of the checkpoint in `dir` NaN.
inline void spoil_embedding(const std::string& dir, std::int32_t token) {
  const std::string file = dir + "/model.safetensors";
  std::string bytes = read_bytes(file);
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  const auto tensor = nlohmann::json::parse(bytes.substr(sizeof length, length))["model.embed_tokens.weight"];
  ASSERT_EQ(tensor["dtype"], "BF16");
  const auto hidden = tensor["shape"][1].get<std::size_t>();
  const std::size_t at = sizeof length + length + tensor["data_offsets"][0].get<std::size_t>() +
                         static_cast<std::size_t>(token) * hidden * 2;
  for (std::size_t i = 0; i < hidden; ++i) {
    bytes[at + 2 * i] = '\xc0';
    bytes[at + 2 * i + 1] = '\x7f';
  }
  std::ofstream(file, std::ios::binary) << bytes;
}

}  // namespace ossature
