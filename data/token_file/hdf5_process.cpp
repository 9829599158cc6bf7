#include "data/token_file/hdf5_process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <system_error>

#include "data/data_error.h"
#include "data/token_file/hdf5_survey.h"

namespace ossature::hdf5 {
namespace {

constexpr int kPatienceMilliseconds = 60'000;          // without a byte from the child
constexpr rlim_t kMemoryBytes = rlim_t{2} << 30;       // of the child, beyond what the program itself takes
constexpr const char* kOwnProgram = "/proc/self/exe";  // also where its file was replaced meanwhile

void limit(decltype(RLIMIT_AS) resource, rlim_t value) {
  const rlimit both{value, value};
  setrlimit(resource, &both);
}

rlim_t mapped_bytes() {
  unsigned long pages = 0;
  if (std::FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%lu", &pages) != 1) pages = 0;
    std::fclose(file);
  }
  return static_cast<rlim_t>(pages) * static_cast<rlim_t>(sysconf(_SC_PAGESIZE));
}

/// glibc gives main's arguments to constructors.
__attribute__((constructor)) void become_child_if_started_as_one(int argc, char** argv) {
  if (argc != 2 || std::strcmp(argv[0], kChildName) != 0) return;
  const int nowhere = open("/dev/null", O_RDWR);
  for (const int standard : {0, 1, 2}) dup2(nowhere, standard);  // what a crash says is not for the user
  limit(RLIMIT_AS, mapped_bytes() + kMemoryBytes);
  limit(RLIMIT_CORE, 0);
  limit(RLIMIT_FSIZE, 0);
  limit(RLIMIT_NPROC, 0);
  survey(argv[1]);
  _exit(0);
}

[[noreturn]] void fail_system(const std::filesystem::path& path, const char* what) {
  throw std::system_error(errno, std::generic_category(),
                          path.string() + ": cannot be read, since " + what + " failed");
}

}  // namespace

Process::Process(const std::filesystem::path& path, int file, std::uint64_t file_size) : path_(path) {
  try {
    start(file);
    receive_layout(file_size);
    check_columns(file_size);
  } catch (...) {
    stop();
    throw;
  }
  bool is_needed = false;
  for (const ColumnLayout& column : layout_.columns)
    is_needed |= column.storage == Storage::kServed && column.length > 0;
  if (!is_needed) stop();
}

Process::~Process() {
  stop();
}

void Process::start(int file) {
  std::array<int, 2> sockets{};
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets.data()) != 0) fail_system(path_, "socketpair");
  socket_ = sockets[0];
  // A descriptor that already has the number that it shall have would stay closed on exec; above both there is none.
  const int high_file = fcntl(file, F_DUPFD_CLOEXEC, 10), high_socket = fcntl(sockets[1], F_DUPFD_CLOEXEC, 10);
  close(sockets[1]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, high_file, kChildFile);
  posix_spawn_file_actions_adddup2(&actions, high_socket, kChildSocket);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  // A group of its own: Ctrl-C is for the parent to answer.
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  posix_spawnattr_setpgroup(&attributes, 0);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  std::string name = kChildName, shown = path_.string();
  std::array<char*, 3> arguments = {name.data(), shown.data(), nullptr};
  errno = posix_spawn(&child_, kOwnProgram, &actions, &attributes, arguments.data(), environ);
  const bool ok = errno == 0;
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  close(high_file);
  close(high_socket);
  if (!ok) {
    child_ = -1;
    fail_system(path_, "starting a child process");
  }
}

void Process::stop() {
  if (socket_ >= 0) close(socket_);
  socket_ = -1;
  if (child_ > 0) {
    kill(child_, SIGKILL);
    while (waitpid(child_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  child_ = -1;
}

void Process::fail_child(bool is_hanging) {
  std::string how = "stopped answering";
  for (int waits = 0; !is_hanging && child_ > 0 && waits < 200; ++waits) {  // 2 s: its socket is closed, so it ends
    int status = 0;
    if (const pid_t ended = waitpid(child_, &status, WNOHANG); ended == 0 || (ended < 0 && errno == EINTR)) {
      usleep(10'000);
      continue;
    }
    child_ = -1;
    how = WIFSIGNALED(status) ? std::string("crashed (") + strsignal(WTERMSIG(status)) + ")" : "ended early";
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU) how = "came to no end";
  }
  stop();
  throw DataError(path_.string() + ": HDF5 " + how +
                  " while it read the file in a process of its own; the file is damaged or hostile: prepare it anew");
}

void Process::fail_answer() const {
  throw DataError(path_.string() +
                  ": HDF5 finds parts that do not lie in the file; it is damaged or hostile: prepare it "
                  "anew");
}

void Process::receive_bytes(void* out, std::size_t size) {
  auto* begin = static_cast<char*>(out);
  while (size > 0) {
    pollfd waiting{socket_, POLLIN, 0};
    const int ready = poll(&waiting, 1, kPatienceMilliseconds);
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) fail_child(true);
    const ssize_t count = recv(socket_, begin, size, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail_child(false);
    begin += count;
    size -= static_cast<std::size_t>(count);
  }
}

std::pair<FrameKind, std::vector<char>> Process::receive_frame() {
  std::vector<char> bytes(sizeof(FrameKind) + sizeof(std::uint32_t));
  receive_bytes(bytes.data(), bytes.size());
  FrameHeader header;
  PayloadReader reader(bytes);
  if (!reader.take(header.kind) || !reader.take(header.size) || header.size > kLargestFrame) fail_answer();
  std::vector<char> payload(header.size);
  receive_bytes(payload.data(), payload.size());
  return {header.kind, std::move(payload)};
}

void Process::receive_layout(std::uint64_t file_size) {
  for (;;) {
    const auto [kind, payload] = receive_frame();
    PayloadReader reader(payload);
    std::string name, text;
    std::int64_t integer = 0;
    switch (kind) {
      case FrameKind::kError:
        throw DataError(std::string(payload.begin(), payload.end()));
      case FrameKind::kInteger:
        if (!reader.take_text(name) || !reader.take(integer)) fail_answer();
        layout_.integers[name] = integer;
        break;
      case FrameKind::kText:
        if (!reader.take_text(name) || !reader.take_text(text)) fail_answer();
        layout_.texts[name] = text;
        break;
      case FrameKind::kColumn:
        receive_column(payload, file_size);
        break;
      case FrameKind::kChunks:
        receive_chunks(payload, file_size);
        break;
      case FrameKind::kDone:
        return;
      default:
        fail_answer();
    }
  }
}

void Process::receive_column(const std::vector<char>& payload, std::uint64_t file_size) {
  ColumnLayout column;
  std::uint8_t storage = 0, is_float = 0, is_signed = 0, is_big_endian = 0;
  std::uint32_t num_filters = 0;
  std::vector<std::uint8_t> filters;
  PayloadReader reader(payload);
  constexpr std::uint32_t kMostFilters = 32;  // of HDF5
  if (!reader.take_text(column.name) || !reader.take(column.length) || !reader.take(storage) ||
      !reader.take(is_float) || !reader.take(is_signed) || !reader.take(is_big_endian) ||
      !reader.take(column.element_size) || !reader.take(column.address) || !reader.take(column.chunk) ||
      !reader.take(num_filters) || num_filters > kMostFilters || !reader.take_all(filters, num_filters) ||
      storage > static_cast<std::uint8_t>(Storage::kServed)) {
    fail_answer();
  }
  column.storage = static_cast<Storage>(storage);
  column.is_float = is_float != 0;
  column.is_signed = is_signed != 0;
  column.is_big_endian = is_big_endian != 0;
  for (const std::uint8_t filter : filters) {
    if (filter > static_cast<std::uint8_t>(Filter::kFletcher32)) fail_answer();
    column.filters.push_back(static_cast<Filter>(filter));
  }
  constexpr std::size_t kMostColumns = 16;
  if (layout_.columns.size() >= kMostColumns) fail_answer();
  if (column.storage == Storage::kChunked && column.chunk > 0 && column.length >= 0) {
    const auto num_chunks = static_cast<std::uint64_t>(column.length / column.chunk) + 1;
    column.addresses.reserve(std::min(num_chunks, file_size));
    column.stored_sizes.reserve(std::min(num_chunks, file_size));
  }
  layout_.columns.push_back(std::move(column));
}

void Process::receive_chunks(const std::vector<char>& payload, std::uint64_t file_size) {
  if (layout_.columns.empty()) fail_answer();
  ColumnLayout& column = layout_.columns.back();
  PayloadReader reader(payload);
  std::uint32_t count = 0;
  std::vector<std::uint32_t> masks;
  const std::size_t before = column.addresses.size();
  if (!reader.take(count) || !reader.take_all(column.addresses, count) ||
      !reader.take_all(column.stored_sizes, count) || !reader.take_all(masks, count) ||
      column.addresses.size() > file_size) {
    fail_answer();
  }
  for (const std::uint32_t mask : masks) {
    if (mask == 0 && column.skipped_masks.empty()) continue;
    column.skipped_masks.resize(before);
    column.skipped_masks.insert(column.skipped_masks.end(), masks.begin(), masks.end());
    return;
  }
}

void Process::check_columns(std::uint64_t file_size) const {
  for (const ColumnLayout& column : layout_.columns) {
    const auto length = static_cast<std::uint64_t>(column.length), chunk = static_cast<std::uint64_t>(column.chunk);
    const auto size = static_cast<std::uint64_t>(column.element_size);
    const bool has_known_size = size == 4 || size == 8 || (!column.is_float && (size == 1 || size == 2));
    if (column.length < 0 || column.chunk < 0 || !has_known_size) fail_answer();
    const auto lies_inside = [&](std::uint64_t address, std::uint64_t bytes) {
      return address <= file_size && bytes <= file_size - address;
    };
    if (column.storage == Storage::kContiguous && (length > file_size || !lies_inside(column.address, length * size))) {
      throw DataError(path_.string() + ": " + column.name + " claims " + std::to_string(column.length) +
                      " values, which go beyond the end of the file; prepare it anew");
    }
    if (column.storage != Storage::kChunked) continue;
    constexpr std::uint64_t kMostChunkBytes = UINT32_MAX;  // of HDF5
    const auto num_chunks = chunk == 0 ? 0 : length / chunk + (length % chunk != 0 ? 1 : 0);
    if (chunk == 0 || chunk > kMostChunkBytes / size || column.addresses.size() != num_chunks ||
        (!column.skipped_masks.empty() && column.skipped_masks.size() != num_chunks)) {
      fail_answer();
    }
    for (std::size_t i = 0; i < column.addresses.size(); ++i) {
      if (column.stored_sizes[i] != 0 && lies_inside(column.addresses[i], column.stored_sizes[i])) continue;
      throw DataError(path_.string() + ": " + column.name + " is damaged: chunk " + std::to_string(i) +
                      (column.stored_sizes[i] == 0 ? " was never written" : " goes beyond the end of the file") +
                      "; prepare the file anew");
    }
  }
}

bool Process::read(std::size_t column, std::int64_t first, std::int64_t count, void* out) {
  const std::lock_guard lock(mutex_);
  if (socket_ < 0) fail_child(false);
  const Request request{column, first, count};
  if (send(socket_, &request, sizeof(request), MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof(request))) {
    fail_child(false);
  }
  const auto [kind, payload] = receive_frame();
  if (kind == FrameKind::kFailed) return false;
  if (kind != FrameKind::kValues || payload.size() != static_cast<std::size_t>(count) * sizeof(std::int64_t)) {
    fail_answer();
  }
  std::memcpy(out, payload.data(), payload.size());
  return true;
}

}  // namespace ossature::hdf5
