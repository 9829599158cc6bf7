// HDF5 in a child process. HDF5 1.10 is not safe on hostile files: damaged metadata can crash it or write over memory.
// And whether a file is hostile cannot be told from what is in it, since anybody can copy that. So the files that we
// read are opened by a child, which tells where their parts lie; this process reads those itself
// (data/token_file/stored_column.h) and never runs HDF5 on them. Internal to data/.
//
// The child is this same program, started anew: a fork of a program with threads could inherit locks that nobody opens
// again. It starts in a constructor, before main, in any program that this library is part of.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <vector>

#include "data/token_file/hdf5_frames.h"
#include "data/token_file/hdf5_layout.h"

namespace ossature::hdf5 {

class Process {
 public:
  /// Opens the file of the descriptor `file` in a child and checks that its parts lie within its `file_size` bytes.
  /// `path` names it in messages. Throws DataError if it breaks the format, or if the child crashes, hangs, or needs
  /// more memory than a token file does.
  Process(const std::filesystem::path& path, int file, std::uint64_t file_size);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  [[nodiscard]] const FileLayout& layout() const { return layout_; }
  /// Gives away the layout's columns, which are large.
  [[nodiscard]] std::vector<ColumnLayout> take_columns() { return std::move(layout_.columns); }

  /// Has the child read up to kMostServed values, as int64 or double, of a column by its place in the layout; false if
  /// HDF5 cannot. Throws DataError if the child crashes or hangs. Several threads may call it.
  [[nodiscard]] bool read(std::size_t column, std::int64_t first, std::int64_t count, void* out);

 private:
  void start(int file);
  void stop();
  void receive_layout(std::uint64_t file_size);
  void receive_column(const std::vector<char>& payload, std::uint64_t file_size);
  void receive_chunks(const std::vector<char>& payload, std::uint64_t file_size);
  void check_columns(std::uint64_t file_size) const;
  void receive_bytes(void* out, std::size_t size);
  std::pair<FrameKind, std::vector<char>> receive_frame();
  [[noreturn]] void fail_child(bool is_hanging);
  [[noreturn]] void fail_answer() const;

  std::filesystem::path path_;
  FileLayout layout_;
  pid_t child_ = -1;
  int socket_ = -1;
  std::mutex mutex_;
};

}  // namespace ossature::hdf5
