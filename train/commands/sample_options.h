// The options that say how data become samples, for the commands that read data.
#pragma once

#include <string>
#include <vector>

#include "data/harmony/harmony.h"
#include "data/records/formats.h"

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace ossature {

class SampleOptions {
 public:
  /// Adds --format, --map and those of harmony to `command`; this must live as long as it.
  void add_to(CLI::App& command);

  /// What they say, once the command line is parsed.
  [[nodiscard]] FormatOptions format() const;
  [[nodiscard]] HarmonyOptions harmony() const;
  /// Whether any was given.
  [[nodiscard]] bool are_given() const;

 private:
  std::string format_ = "auto", renderer_ = "template", date_, learn_, turns_ = "all";
  std::vector<std::string> map_;
  HarmonyOptions harmony_;
  std::vector<CLI::Option*> added_;
};

}  // namespace ossature
