#include "data/token_file/stored_column.h"

#include <libdeflate.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <system_error>
#include <type_traits>
#include <utility>

#include "data/data_error.h"
#include "data/token_file/fletcher32.h"

namespace ossature {
namespace {

using hdf5::Filter;
using hdf5::Storage;

struct DecompressorDeleter {
  void operator()(libdeflate_decompressor* decompressor) const { libdeflate_free_decompressor(decompressor); }
};

/// Whether `stored` is a zlib stream of exactly out.size() bytes.
bool inflate(std::span<const std::byte> stored, std::span<std::byte> out) {
  thread_local const std::unique_ptr<libdeflate_decompressor, DecompressorDeleter> decompressor(
      libdeflate_alloc_decompressor());
  std::size_t size = 0;
  return decompressor != nullptr &&
         libdeflate_zlib_decompress(decompressor.get(), stored.data(), stored.size(), out.data(), out.size(), &size) ==
             LIBDEFLATE_SUCCESS &&
         size == out.size();
}

/// Whether the last 4 bytes are the checksum of the others, either way in which HDF5 has stored it.
bool has_fletcher32(std::span<const std::byte> bytes) {
  if (bytes.size() < 4) return false;
  std::uint32_t stored = 0;
  std::memcpy(&stored, bytes.data() + bytes.size() - 4, 4);
  const std::uint32_t computed = fletcher32(bytes.data(), bytes.size() - 4);
  const std::uint32_t swapped = (computed & 0x00ff00ffu) << 8 | (computed & 0xff00ff00u) >> 8;
  return stored == computed || stored == swapped;  // HDF5 before 1.6.3 swapped the bytes of each half
}

/// Undoes HDF5's shuffle: all first bytes of the elements, then all second ones, and so on.
void unshuffle(std::span<const std::byte> stored, std::size_t element_size, std::span<std::byte> out) {
  const std::size_t count = stored.size() / element_size;
  for (std::size_t byte = 0; byte < element_size; ++byte) {
    for (std::size_t i = 0; i < count; ++i) out[i * element_size + byte] = stored[byte * count + i];
  }
  std::copy(stored.begin() + static_cast<std::ptrdiff_t>(count * element_size), stored.end(),
            out.begin() + static_cast<std::ptrdiff_t>(count * element_size));
}

template <class Stored, class T>
T convert_number(Stored value) {
  if constexpr (std::is_floating_point_v<T>) {
    constexpr auto kLargest = std::numeric_limits<T>::max();
    if (value > static_cast<Stored>(kLargest)) return std::numeric_limits<T>::infinity();
    if (value < -static_cast<Stored>(kLargest)) return -std::numeric_limits<T>::infinity();
    return static_cast<T>(value);
  } else {
    if (std::cmp_less(value, std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
    if (std::cmp_greater(value, std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
    return static_cast<T>(value);
  }
}

template <class Stored, class T>
void convert_all(const std::byte* stored, bool is_big_endian, std::span<T> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    std::byte bytes[sizeof(Stored)];
    std::memcpy(bytes, stored + i * sizeof(Stored), sizeof(Stored));
    if (is_big_endian) std::reverse(std::begin(bytes), std::end(bytes));
    Stored value;
    std::memcpy(&value, bytes, sizeof(Stored));
    out[i] = convert_number<Stored, T>(value);
  }
}

}  // namespace

StoredColumn::StoredColumn(std::filesystem::path path, int file, hdf5::ColumnLayout layout,
                           std::shared_ptr<hdf5::Process> process, std::size_t index)
    : path_(std::move(path)),
      file_(file),
      layout_(std::move(layout)),
      process_(std::move(process)),
      index_(index),
      cache_owner_(BlockCache::shared().new_owner()) {}

StoredColumn::~StoredColumn() {
  BlockCache::shared().forget(cache_owner_);
}

void StoredColumn::fail_damaged(std::int64_t first, std::int64_t count, const std::string& how) const {
  const std::int64_t last = first + count - 1;
  std::string chunks;
  if (layout_.chunk > 0) {
    const auto begin = first / layout_.chunk, end = last / layout_.chunk;
    chunks = begin == end ? " (chunk " + std::to_string(begin) + ")"
                          : " (chunks " + std::to_string(begin) + " to " + std::to_string(end) + ")";
  }
  throw DataError(path_.string() + ": " + layout_.name + " is damaged at positions " + std::to_string(first) + " to " +
                  std::to_string(last) + chunks + ": " + how + "; prepare the file anew");
}

void StoredColumn::read_bytes(std::uint64_t address, std::span<std::byte> out, std::int64_t first,
                              std::int64_t count) const {
  for (std::size_t done = 0; done < out.size();) {
    const ssize_t got = pread(file_, out.data() + done, out.size() - done, static_cast<off_t>(address + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw std::system_error(errno, std::generic_category(), path_.string() + ": cannot be read");
    if (got == 0) fail_damaged(first, count, "the file ends before; it became shorter while it was read");
    done += static_cast<std::size_t>(got);
  }
}

std::vector<std::byte> StoredColumn::decode_chunk(std::int64_t chunk) const {
  const auto c = static_cast<std::size_t>(chunk);
  const std::int64_t first = chunk * layout_.chunk, count = std::min(layout_.chunk, layout_.length - first);
  const auto whole_size = static_cast<std::size_t>(layout_.chunk * layout_.element_size);
  const std::uint32_t skipped = layout_.skipped_masks.empty() ? 0 : layout_.skipped_masks[c];
  constexpr std::size_t kBestRatio = 1032;  // of deflate
  if (whole_size / kBestRatio > layout_.stored_sizes[c]) fail_damaged(first, count, "too few bytes are stored");

  std::vector<std::byte> bytes(layout_.stored_sizes[c]);
  read_bytes(layout_.addresses[c], bytes, first, count);
  for (std::size_t f = layout_.filters.size(); f-- > 0;) {
    const auto was_applied = [&](std::size_t i) { return (skipped >> i & 1) == 0; };
    if (!was_applied(f)) continue;
    if (layout_.filters[f] == Filter::kFletcher32) {
      if (!has_fletcher32(bytes)) fail_damaged(first, count, "it does not have its Fletcher32 checksum");
      bytes.resize(bytes.size() - 4);
      continue;
    }
    std::size_t size = bytes.size();
    if (layout_.filters[f] == Filter::kDeflate) {  // what went in: the chunk, and checksums of filters before
      size = whole_size;
      for (std::size_t i = 0; i < f; ++i) size += layout_.filters[i] == Filter::kFletcher32 && was_applied(i) ? 4 : 0;
    }
    std::vector<std::byte> before(size);
    if (layout_.filters[f] == Filter::kShuffle) {
      unshuffle(bytes, static_cast<std::size_t>(layout_.element_size), before);
    } else if (!inflate(bytes, before)) {
      fail_damaged(first, count, "its deflate stream is broken");
    }
    bytes = std::move(before);
  }
  if (bytes.size() != whole_size) {
    fail_damaged(first, count,
                 "it holds " + std::to_string(bytes.size()) + " bytes, expected " + std::to_string(whole_size));
  }
  return bytes;
}

std::vector<std::byte> StoredColumn::ask_process(std::int64_t first, std::int64_t count) const {
  std::vector<std::byte> bytes(static_cast<std::size_t>(count) * sizeof(std::int64_t));
  if (!process_->read(index_, first, count, bytes.data())) fail_damaged(first, count, "HDF5 cannot read it");
  return bytes;
}

std::int64_t StoredColumn::block_length() const {
  if (layout_.storage == Storage::kChunked) return layout_.chunk;
  return layout_.chunk > 0 ? std::min(layout_.chunk, hdf5::kMostServed) : hdf5::kMostServed;
}

StoredColumn::Block StoredColumn::block(std::int64_t index, Caching caching) const {
  BlockCache& cache = BlockCache::shared();
  if (Block found = cache.find(cache_owner_, index)) return found;
  std::vector<std::byte> bytes;
  if (layout_.storage == Storage::kChunked) {
    bytes = decode_chunk(index);
  } else {
    const std::int64_t first = index * block_length();
    bytes = ask_process(first, std::min(block_length(), layout_.length - first));
  }
  auto made = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  if (caching == Caching::kKeep) cache.put(cache_owner_, index, made);
  return made;
}

template <class T>
void StoredColumn::convert(const std::byte* stored, std::span<T> out) const {
  const bool swap = layout_.is_big_endian;
  if constexpr (std::is_floating_point_v<T>) {
    if (layout_.element_size == 4 && !swap) {
      std::memcpy(out.data(), stored, out.size_bytes());
    } else if (layout_.element_size == 4) {
      convert_all<float>(stored, swap, out);
    } else {
      convert_all<double>(stored, swap, out);
    }
  } else {
    if (layout_.element_size == sizeof(T) && layout_.is_signed == std::is_signed_v<T> && !swap) {
      std::memcpy(out.data(), stored, out.size_bytes());
      return;
    }
    switch (layout_.element_size) {
      case 1:
        return layout_.is_signed ? convert_all<std::int8_t>(stored, swap, out)
                                 : convert_all<std::uint8_t>(stored, swap, out);
      case 2:
        return layout_.is_signed ? convert_all<std::int16_t>(stored, swap, out)
                                 : convert_all<std::uint16_t>(stored, swap, out);
      case 4:
        return layout_.is_signed ? convert_all<std::int32_t>(stored, swap, out)
                                 : convert_all<std::uint32_t>(stored, swap, out);
      default:
        return layout_.is_signed ? convert_all<std::int64_t>(stored, swap, out)
                                 : convert_all<std::uint64_t>(stored, swap, out);
    }
  }
}

template <class T>
void StoredColumn::read(std::int64_t first, std::span<T> out, Caching caching) const {
  const auto count = static_cast<std::int64_t>(out.size());
  if (layout_.storage == Storage::kContiguous) {
    constexpr std::int64_t kPiece = 65536;
    std::vector<std::byte> bytes(static_cast<std::size_t>(std::min(count, kPiece) * layout_.element_size));
    for (std::int64_t done = 0; done < count; done += kPiece) {
      const std::int64_t part = std::min(kPiece, count - done);
      const std::span piece(bytes.data(), static_cast<std::size_t>(part * layout_.element_size));
      read_bytes(layout_.address + static_cast<std::uint64_t>((first + done) * layout_.element_size), piece,
                 first + done, part);
      convert(piece.data(), out.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(part)));
    }
    return;
  }
  const std::int64_t length = block_length();
  for (std::int64_t done = 0; done < count;) {
    const std::int64_t position = first + done, inside = position % length;
    const std::int64_t part = std::min(length - inside, count - done);
    const Block bytes = block(position / length, caching);
    convert(bytes->data() + inside * layout_.element_size,
            out.subspan(static_cast<std::size_t>(done), static_cast<std::size_t>(part)));
    done += part;
  }
}

template void StoredColumn::read(std::int64_t, std::span<std::int32_t>, Caching) const;
template void StoredColumn::read(std::int64_t, std::span<std::int64_t>, Caching) const;
template void StoredColumn::read(std::int64_t, std::span<std::uint32_t>, Caching) const;
template void StoredColumn::read(std::int64_t, std::span<std::uint64_t>, Caching) const;
template void StoredColumn::read(std::int64_t, std::span<float>, Caching) const;

}  // namespace ossature
