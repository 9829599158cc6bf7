#include "data/token_file/hdf5_survey.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <vector>

#include "data/data_error.h"
#include "data/token_file/hdf5.h"
#include "data/token_file/hdf5_frames.h"
#include "data/token_file/hdf5_layout.h"
#include "data/token_file/token_file_format.h"

namespace ossature::hdf5 {
namespace {

// HDF5 1.10 tells the place of a chunk in time that grows with their number. So a file driver of our own watches where
// H5Dread_chunk, which finds each at once, would read.
struct WatchedFile : H5FD_t {
  haddr_t end_of_allocation = 0;
};
struct {
  bool is_open = false, is_watching = false;
  haddr_t address = HADDR_UNDEF;
} watched;  // the child has one thread and one file

H5FD_t* open_watched(const char* /*name*/, unsigned flags, hid_t /*access*/, haddr_t /*longest*/) {
  // A second file would be one that a link or a virtual dataset names.
  if (watched.is_open || (flags & H5F_ACC_RDWR) != 0) return nullptr;
  watched.is_open = true;
  return new WatchedFile();
}
herr_t close_watched(H5FD_t* file) {
  delete static_cast<WatchedFile*>(file);
  watched.is_open = false;
  return 0;
}
herr_t query_watched(const H5FD_t* /*file*/, unsigned long* flags) {
  *flags = H5FD_FEAT_ACCUMULATE_METADATA;
  return 0;
}
haddr_t get_eoa(const H5FD_t* file, H5FD_mem_t /*type*/) {
  return static_cast<const WatchedFile*>(file)->end_of_allocation;
}
herr_t set_eoa(H5FD_t* file, H5FD_mem_t /*type*/, haddr_t address) {
  static_cast<WatchedFile*>(file)->end_of_allocation = address;
  return 0;
}
haddr_t get_eof(const H5FD_t* /*file*/, H5FD_mem_t /*type*/) {
  struct stat status {};
  return fstat(kChildFile, &status) == 0 ? static_cast<haddr_t>(status.st_size) : HADDR_UNDEF;
}
herr_t read_watched(H5FD_t* /*file*/, H5FD_mem_t type, hid_t /*transfer*/, haddr_t address, size_t size, void* buffer) {
  if (watched.is_watching && type == H5FD_MEM_DRAW) {
    watched.address = address;
    return 0;
  }
  auto* out = static_cast<char*>(buffer);
  while (size > 0) {
    const ssize_t count = pread(kChildFile, out, size, static_cast<off_t>(address));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return -1;
    if (count == 0) {  // HDF5 expects zeros past the end
      std::fill_n(out, size, '\0');
      return 0;
    }
    out += count;
    address += static_cast<haddr_t>(count);
    size -= static_cast<size_t>(count);
  }
  return 0;
}
herr_t write_watched(H5FD_t* /*file*/, H5FD_mem_t /*type*/, hid_t /*transfer*/, haddr_t /*address*/, size_t /*size*/,
                     const void* /*buffer*/) {
  return -1;
}

Handle open_file() {
  static H5FD_class_t driver{};
  driver.name = "ossature";
  driver.maxaddr = static_cast<haddr_t>(INT64_MAX);
  driver.fc_degree = H5F_CLOSE_STRONG;
  driver.open = open_watched;
  driver.close = close_watched;
  driver.query = query_watched;
  driver.get_eoa = get_eoa;
  driver.set_eoa = set_eoa;
  driver.get_eof = get_eof;
  driver.read = read_watched;
  driver.write = write_watched;
  const Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_driver(access.get(), H5FDregister(&driver), nullptr);
  constexpr std::size_t kChunkCacheBytes = 64 << 20;  // of datasets whose filters only HDF5 knows
  H5Pset_cache(access.get(), 0, 521, kChunkCacheBytes, 0.75);
  return {H5Fopen("token file", H5F_ACC_RDONLY, access.get()), H5Fclose};
}

void send_all(const void* bytes, std::size_t size) {
  const auto* begin = static_cast<const char*>(bytes);
  while (size > 0) {
    const ssize_t count = send(kChildSocket, begin, size, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) _exit(1);  // the parent has gone
    begin += count;
    size -= static_cast<std::size_t>(count);
  }
}
void send_frame(FrameKind kind, const void* bytes, std::size_t size) {
  Payload header;
  header.add(kind).add(static_cast<std::uint32_t>(size));
  send_all(header.bytes().data(), header.bytes().size());
  send_all(bytes, size);
}
void send_frame(FrameKind kind, const Payload& payload) {
  send_frame(kind, payload.bytes().data(), payload.bytes().size());
}

/// Finds out how values and filters are stored; leaves kServed where only HDF5 can read them.
ColumnLayout describe(const char* name, const Column& column, bool is_float, const std::filesystem::path& path) {
  ColumnLayout layout;
  layout.name = name;
  layout.length = column.length;
  layout.chunk = column.chunk;
  layout.is_float = is_float;
  const Handle properties(H5Dget_create_plist(column.dataset.get()), H5Pclose);
  const H5D_layout_t storage = H5Pget_layout(properties.get());
  if (storage == H5D_VIRTUAL || H5Pget_external_count(properties.get()) > 0) {
    fail_format(path, std::string("dataset ") + name + " keeps its values in other files");
  }
  const Handle type(H5Dget_type(column.dataset.get()), H5Tclose);
  const std::size_t size = H5Tget_size(type.get());
  layout.is_big_endian = H5Tget_order(type.get()) == H5T_ORDER_BE;
  if (is_float) {
    const auto equals = [&](hid_t other) { return H5Tequal(type.get(), other) > 0; };
    const bool is_single = equals(H5T_IEEE_F32LE) || equals(H5T_IEEE_F32BE);
    if (!is_single && !equals(H5T_IEEE_F64LE) && !equals(H5T_IEEE_F64BE)) return layout;
  } else {
    layout.is_signed = H5Tget_sign(type.get()) == H5T_SGN_2;
    const bool is_plain = (size == 1 || size == 2 || size == 4 || size == 8) &&
                          H5Tget_precision(type.get()) == 8 * size && H5Tget_offset(type.get()) == 0 &&
                          (layout.is_big_endian || H5Tget_order(type.get()) == H5T_ORDER_LE || size == 1);
    if (!is_plain) return layout;
  }
  const auto take_stored = [&](Storage how) {
    layout.storage = how;
    layout.element_size = static_cast<std::int64_t>(size);
    return layout;
  };
  if (storage == H5D_CONTIGUOUS && column.length > 0) {
    layout.address = H5Dget_offset(column.dataset.get());
    return layout.address == HADDR_UNDEF ? layout : take_stored(Storage::kContiguous);
  }
  if (storage != H5D_CHUNKED || column.chunk == 0) return layout;
  int num_deflates = 0;
  for (int i = 0, count = H5Pget_nfilters(properties.get()); i < count; ++i) {
    unsigned flags = 0;
    std::array<unsigned, 8> options{};
    std::size_t num_options = options.size();
    const auto filter = H5Pget_filter2(properties.get(), static_cast<unsigned>(i), &flags, &num_options, options.data(),
                                       0, nullptr, nullptr);
    if (filter == H5Z_FILTER_DEFLATE && ++num_deflates == 1) {
      layout.filters.push_back(Filter::kDeflate);
    } else if (filter == H5Z_FILTER_FLETCHER32) {
      layout.filters.push_back(Filter::kFletcher32);
    } else if (filter == H5Z_FILTER_SHUFFLE && num_options == 1 && options[0] == size) {
      layout.filters.push_back(Filter::kShuffle);
    } else {
      layout.filters.clear();
      return layout;
    }
  }
  return take_stored(Storage::kChunked);
}

/// Sends the places of all chunks. A chunk that was never written has the size 0.
void send_chunks(const Column& column) {
  const auto num_chunks = column.length / column.chunk + (column.length % column.chunk != 0 ? 1 : 0);
  std::vector<std::uint64_t> addresses;
  std::vector<std::uint32_t> sizes, masks;
  const auto flush = [&] {
    Payload payload;
    payload.add(static_cast<std::uint32_t>(addresses.size())).add_all(addresses).add_all(sizes).add_all(masks);
    send_frame(FrameKind::kChunks, payload);
    addresses.clear(), sizes.clear(), masks.clear();
  };
  char unwritten = 0;
  for (std::int64_t i = 0; i < num_chunks; ++i) {
    const auto start = static_cast<hsize_t>(i * column.chunk);
    hsize_t size = 0;
    std::uint32_t mask = 0;
    watched.address = HADDR_UNDEF;
    watched.is_watching = true;
    // The driver only watches, so the buffer is not touched.
    const bool is_found = H5Dget_chunk_storage_size(column.dataset.get(), &start, &size) >= 0 && size > 0 &&
                          size <= UINT32_MAX &&
                          H5Dread_chunk(column.dataset.get(), H5P_DEFAULT, &start, &mask, &unwritten) >= 0 &&
                          watched.address != HADDR_UNDEF;
    watched.is_watching = false;
    addresses.push_back(is_found ? watched.address : 0);
    sizes.push_back(is_found ? static_cast<std::uint32_t>(size) : 0);
    masks.push_back(mask);
    if (addresses.size() == kChunksOfFrame) flush();
  }
  flush();
}

/// A length that the bytes in the file cannot hold is not true, and would have its reader allocate memory for it.
void check_stored_size(const char* name, const Column& column, const std::filesystem::path& path) {
  constexpr std::int64_t kBestRatio = 1032;  // of deflate, in bytes
  const auto stored = static_cast<std::int64_t>(H5Dget_storage_size(column.dataset.get()));
  if (column.length < 0 || stored < 0 || column.length / kBestRatio > stored) {
    fail_format(path, std::string(name) + " claims " + std::to_string(column.length) + " values in " +
                          std::to_string(stored) + " bytes");
  }
}

/// Sends what the file holds; gives the datasets.
std::vector<Column> send_layout(const Handle& file, const std::filesystem::path& path) {
  using namespace token_file;
  const auto send_integer = [&](const char* name, bool is_optional) {
    if (is_optional && !has_attribute(file, name)) return;
    Payload payload;
    send_frame(FrameKind::kInteger, payload.add_text(name).add(read_integer_attribute(file, name, path)));
  };
  const auto send_text = [&](const char* name, bool is_optional) {
    if (is_optional && !has_attribute(file, name)) return;
    Payload payload;
    send_frame(FrameKind::kText, payload.add_text(name).add_text(read_string_attribute(file, name, path)));
  };
  send_text(kFormatAttribute, false);
  send_integer(kVersionAttribute, false);
  send_integer(kVocabSizeAttribute, false);
  send_text(kTokenizerAttribute, true);
  send_integer(kStructureAttribute, true);
  send_text(kSourceFilesAttribute, true);
  std::vector<Column> columns;
  const auto send_column = [&](const char* name, H5T_class_t type, bool is_optional) {
    if (is_optional && H5Lexists(file.get(), name, H5P_DEFAULT) <= 0) return;
    columns.push_back(open_column(file, name, type, path));
    check_stored_size(name, columns.back(), path);
    const ColumnLayout layout = describe(name, columns.back(), type == H5T_FLOAT, path);
    Payload payload;
    payload.add_text(layout.name).add(layout.length).add(layout.storage).add(layout.is_float).add(layout.is_signed);
    payload.add(layout.is_big_endian).add(layout.element_size).add(layout.address).add(layout.chunk);
    payload.add(static_cast<std::uint32_t>(layout.filters.size())).add_all(layout.filters);
    send_frame(FrameKind::kColumn, payload);
    if (layout.storage == Storage::kChunked) send_chunks(columns.back());
  };
  send_column(kTokens, H5T_INTEGER, false);
  send_column(kLossWeights, H5T_FLOAT, false);
  send_column(kSampleOffsets, H5T_INTEGER, false);
  send_column(kChecksums, H5T_INTEGER, true);
  send_column(kSampleSources, H5T_INTEGER, true);
  send_frame(FrameKind::kDone, nullptr, 0);
  return columns;
}

/// The soft limit only, so that it can be lifted again.
void limit_processor_seconds(rlim_t seconds) {
  const rlimit limits{seconds, RLIM_INFINITY};
  setrlimit(RLIMIT_CPU, &limits);
}

void serve(const std::vector<Column>& columns) {
  for (;;) {
    Request request;
    if (recv(kChildSocket, &request, sizeof(request), MSG_WAITALL) != static_cast<ssize_t>(sizeof(request))) return;
    const Column& column = columns.at(request.column);
    const Handle type(H5Dget_type(column.dataset.get()), H5Tclose);
    const hid_t memory_type = H5Tget_class(type.get()) == H5T_FLOAT ? H5T_NATIVE_DOUBLE : H5T_NATIVE_INT64;
    std::vector<std::int64_t> values(static_cast<std::size_t>(std::clamp<std::int64_t>(request.count, 0, kMostServed)));
    if (read_column(column, request.first, request.count, memory_type, values.data())) {
      send_frame(FrameKind::kValues, values.data(), values.size() * sizeof(std::int64_t));
    } else {
      send_frame(FrameKind::kFailed, nullptr, 0);
    }
  }
}

}  // namespace

void survey(const char* shown_path) {
  const std::filesystem::path path = shown_path;
  const auto lock = lock_library();
  H5PLset_loading_state(0);  // a file must not name code to load
  try {
    // Damaged metadata can lead HDF5 in circles. Finding a million chunks takes a few seconds.
    constexpr haddr_t kBytesPerSecond = 200'000'000;
    limit_processor_seconds(10 + get_eof(nullptr, H5FD_MEM_DEFAULT) / kBytesPerSecond);
    const Handle file = open_file();
    if (!file.is_valid()) {
      fail_format(path, "not a readable HDF5 file (damaged, or not completely written)");
    }
    const std::vector<Column> columns = send_layout(file, path);
    limit_processor_seconds(RLIM_INFINITY);
    serve(columns);
  } catch (const std::exception& error) {
    send_frame(FrameKind::kError, error.what(), std::char_traits<char>::length(error.what()));
  }
}

}  // namespace ossature::hdf5
