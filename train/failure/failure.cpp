#include "train/failure/failure.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <iostream>
#include <new>
#include <sstream>
#include <system_error>

#include "data/data_error.h"
#include "model/files/checkpoint_error.h"
#include "train/failure/errors.h"
#include "train/recipe/recipe.h"
#include "train/text/visible_text.h"

namespace ossature {
namespace {

constexpr const char* kLessMemory =
    "; a smaller train.micro_batch_size or data.sequence_length, or train.recompute: on, needs less";

int code_of(const std::system_error& error) {
  constexpr std::array<int, 6> kDiskOrMemory = {ENOSPC, EDQUOT, EIO, EROFS, EFBIG, ENOMEM};
  constexpr std::array<int, 6> kPath = {ENOENT, ENOTDIR, EISDIR, EACCES, EPERM, ENAMETOOLONG};
  const int value = error.code().value();
  if (std::find(kDiskOrMemory.begin(), kDiskOrMemory.end(), value) != kDiskOrMemory.end()) return 5;
  if (std::find(kPath.begin(), kPath.end(), value) != kPath.end()) return 3;
  return dynamic_cast<const std::filesystem::filesystem_error*>(&error) != nullptr ? 3 : 5;
}

/// LibTorch reports a refused allocation as an ordinary c10::Error on the CPU.
bool is_out_of_memory(const std::string& what) {
  return what.find("can't allocate memory") != std::string::npos ||
         what.find("not enough memory") != std::string::npos || what.find("out of memory") != std::string::npos;
}

/// "PATH: Permission denied" where the library says more of itself than of the matter.
std::string message_of(const std::system_error& error) {
  const auto* file = dynamic_cast<const std::filesystem::filesystem_error*>(&error);
  if (file == nullptr || file->path1().empty()) return error.what();
  const std::string to = file->path2().empty() ? "" : " -> " + file->path2().string();
  return file->path1().string() + to + ": " + error.code().message();
}

}  // namespace

Failure describe_failure(const std::exception& error) {
  if (const auto* rank = dynamic_cast<const RankFailure*>(&error)) return {rank->exit_code(), ""};
  if (dynamic_cast<const RecipeError*>(&error) != nullptr) return {2, error.what()};
  if (dynamic_cast<const CheckpointError*>(&error) != nullptr) return {3, error.what()};
  if (dynamic_cast<const DataError*>(&error) != nullptr) return {3, error.what()};
  if (dynamic_cast<const NonFiniteError*>(&error) != nullptr) return {4, error.what()};
  if (dynamic_cast<const OutOfMemoryError*>(&error) != nullptr) return {5, error.what()};
  if (dynamic_cast<const InterruptedError*>(&error) != nullptr) return {130, error.what()};
  if (const auto* system = dynamic_cast<const std::system_error*>(&error))
    return {code_of(*system), message_of(*system)};
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return {5, std::string("out of memory") + kLessMemory};
  const auto* torch = dynamic_cast<const c10::Error*>(&error);
  const std::string what = torch != nullptr ? torch->what_without_backtrace() : error.what();
  if (torch != nullptr && is_out_of_memory(what)) return {5, what + kLessMemory};
  return {1, what + "\nThis is a bug in ossature: please report it with the command that you ran."};
}

void tell(const Failure& failure) {
  if (failure.message.empty()) return;
  std::ostringstream text;
  text << "ossature: error: ";
  for (const VisiblePiece& piece : visible_pieces(failure.message)) {
    text << (piece.kind == VisiblePiece::kNewline ? "\n" : piece.text);
  }
  std::cerr << text.str() + "\n" << std::flush;
}

}  // namespace ossature
