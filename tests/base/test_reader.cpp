#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "runtime/base/reader.h"

namespace nwc {
namespace {

const std::vector<uint8_t> kContent = {10, 11, 12, 13, 14, 15, 16, 17};

class ReaderTest : public ::testing::TestWithParam<const char*> {
 protected:
  ~ReaderTest() override {
    if (!path_.empty()) std::filesystem::remove(path_);
  }

  std::unique_ptr<Reader> make() {
    const std::string kind = GetParam();
    if (kind == "memory") return make_memory_reader(kContent);
    if (kind == "owned") return make_owned_reader(kContent);
    if (kind == "callback") {
      return make_callback_reader(kContent.size(), [](uint64_t offset, void* out, size_t size) {
        std::memcpy(out, kContent.data() + offset, size);
        return true;
      });
    }
    path_ = std::filesystem::temp_directory_path() / ("nwc_test_reader_" + std::to_string(getpid()));
    std::ofstream(path_, std::ios::binary)
        .write(reinterpret_cast<const char*>(kContent.data()), static_cast<std::streamsize>(kContent.size()));
    auto reader = open_file_reader(path_.string());
    EXPECT_TRUE(reader.ok()) << reader.status().message();
    return std::move(reader).value();
  }

  std::filesystem::path path_;
};

TEST_P(ReaderTest, ReadsEveryRange) {
  const auto reader = make();
  // Hints say nothing, whatever they name.
  reader->will_read(kContent.size() + 1, 1);
  reader->will_read(1, UINT64_MAX);
  ASSERT_EQ(reader->size(), kContent.size());
  for (size_t begin = 0; begin <= kContent.size(); ++begin) {
    for (size_t end = begin; end <= kContent.size(); ++end) {
      reader->will_read(begin, end - begin);
      const std::vector<uint8_t> want(kContent.begin() + static_cast<ptrdiff_t>(begin),
                                      kContent.begin() + static_cast<ptrdiff_t>(end));
      std::vector<uint8_t> got(end - begin);
      ASSERT_TRUE(reader->read(begin, got).ok());
      EXPECT_EQ(got, want);
      std::vector<uint8_t> storage;
      const auto range = read_range(*reader, begin, end - begin, &storage);
      ASSERT_TRUE(range.ok());
      EXPECT_TRUE(std::equal(range->begin(), range->end(), want.begin(), want.end()));
    }
  }
}

TEST_P(ReaderTest, RangesBeyondTheEndAreTruncated) {
  const auto reader = make();
  struct Case {
    uint64_t offset, size;
  };
  // The last two wrap around if offset + size is computed without care.
  for (const Case c : {Case{0, 9}, Case{8, 1}, Case{9, 0}, Case{UINT64_MAX, 1}, Case{UINT64_MAX - 3, 8}}) {
    std::vector<uint8_t> out(static_cast<size_t>(c.size));
    EXPECT_EQ(reader->read(c.offset, out).code(), StatusCode::kTruncated) << c.offset;
    EXPECT_EQ(reader->view(c.offset, c.size), nullptr) << c.offset;
    std::vector<uint8_t> storage;
    EXPECT_EQ(read_range(*reader, c.offset, c.size, &storage).status().code(), StatusCode::kTruncated) << c.offset;
  }
  // A size that no machine has: the bounds are checked before anything is allocated.
  std::vector<uint8_t> storage;
  EXPECT_EQ(read_range(*reader, 1, UINT64_MAX, &storage).status().code(), StatusCode::kTruncated);
  EXPECT_EQ(reader->view(1, UINT64_MAX), nullptr);
}

INSTANTIATE_TEST_SUITE_P(AllKinds, ReaderTest, ::testing::Values("memory", "owned", "callback", "file"),
                         [](const auto& param_info) { return std::string(param_info.param); });

TEST(CallbackReader, FailureIsAnIoErrorAndNamesTheOffset) {
  const auto reader = make_callback_reader(100, [](uint64_t, void*, size_t) { return false; });
  std::vector<uint8_t> out(4);
  const Status status = reader->read(42, out);
  EXPECT_EQ(status.code(), StatusCode::kIo);
  EXPECT_NE(status.message().find("42"), std::string::npos);
}

TEST(FileReader, MissingFilesAndDirectoriesAreIoErrorsWithThePath) {
  const std::string missing = (std::filesystem::temp_directory_path() / "nwc_no_such_file").string();
  const Status no_file = open_file_reader(missing).status();
  EXPECT_EQ(no_file.code(), StatusCode::kIo);
  EXPECT_NE(no_file.message().find(missing), std::string::npos);
  const Status directory = open_file_reader(std::filesystem::temp_directory_path().string()).status();
  EXPECT_EQ(directory.code(), StatusCode::kIo);
}

TEST(FileReader, WhatIsNoPlainFileIsRefusedByItsKindAndWithoutWaiting) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("nwc_special_" + std::to_string(getpid()))).string();
  const auto expect_refused = [](const std::string& name, const char* kind) {
    const Status status = open_file_reader(name).status();
    EXPECT_EQ(status.code(), StatusCode::kIo);
    EXPECT_NE(status.message().find(name), std::string::npos) << status.message();
    EXPECT_NE(status.message().find(kind), std::string::npos) << status.message();
  };
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  expect_refused(path, "FIFO");
  std::filesystem::remove(path);
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  ASSERT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  expect_refused(path, "socket");
  close(fd);
  std::filesystem::remove(path);
  expect_refused(std::filesystem::temp_directory_path().string(), "folder");
  expect_refused("/dev/null", "device");
}

// Another program cuts the file short (sync tools, network disks): an error with a text, and never a signal.
TEST(FileReader, AFileThatShrinksIsTruncated) {
  const auto path = std::filesystem::temp_directory_path() / ("nwc_test_shrinks_" + std::to_string(getpid()));
  const std::vector<char> bytes(100000, 'x');
  for (const uint64_t left : {0u, 1u, 4096u, 50000u}) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    const auto reader = open_file_reader(path.string());
    ASSERT_TRUE(reader.ok());
    std::filesystem::resize_file(path, left);
    for (const uint64_t offset : {0u, 4096u, 60000u}) {
      std::vector<uint8_t> storage;
      const Result<Bytes> range = read_range(**reader, offset, 20000, &storage);
      if (offset + 20000 <= left) {
        ASSERT_TRUE(range.ok());
        EXPECT_EQ(std::count(range->begin(), range->end(), 'x'), 20000);
        continue;
      }
      ASSERT_EQ(range.status().code(), StatusCode::kTruncated);
      EXPECT_NE(range.status().message().find("shorter"), std::string::npos) << range.status().message();
      EXPECT_NE(range.status().message().find("100000"), std::string::npos) << range.status().message();
    }
    EXPECT_EQ((*reader)->size(), bytes.size());
  }
  std::filesystem::remove(path);
}

TEST(FileReader, AnEmptyFileHasNoBytes) {
  const auto path = std::filesystem::temp_directory_path() / ("nwc_test_empty_" + std::to_string(getpid()));
  std::ofstream(path, std::ios::binary).flush();
  const auto reader = open_file_reader(path.string());
  ASSERT_TRUE(reader.ok());
  EXPECT_EQ((*reader)->size(), 0u);
  std::vector<uint8_t> out(1);
  EXPECT_EQ((*reader)->read(0, out).code(), StatusCode::kTruncated);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace nwc
