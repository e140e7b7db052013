#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/data/temp_dir.h"
#include "trainer/data/atomic_file.h"
#include "trainer/data/atomic_folder.h"

namespace nwc {
namespace {

namespace fs = std::filesystem;

class AtomicFileTest : public ::testing::Test {
 protected:
  static Status write(const std::string& path, const std::string& text) {
    NWC_ASSIGN_OR_RETURN(AtomicFile file, AtomicFile::create(path));
    NWC_TRY(file.write({reinterpret_cast<const uint8_t*>(text.data()), text.size()}));
    return file.commit();
  }
  static mode_t mode_of(const std::string& path) {
    struct stat info {};
    EXPECT_EQ(stat(path.c_str(), &info), 0);
    return info.st_mode & 07777;
  }
  test::TempDir dir_;
};

TEST_F(AtomicFileTest, AppearsWholeAndLeavesNothingElse) {
  const std::string path = dir_.write("x", "old");
  {
    Result<AtomicFile> file = AtomicFile::create(path);
    ASSERT_TRUE(file.ok());
    EXPECT_EQ(test::load_file(path), "old");
    EXPECT_EQ(dir_.count(), 2u);
  }
  EXPECT_EQ(dir_.count(), 1u);
  ASSERT_TRUE(write(path, "new").ok());
  EXPECT_EQ(test::load_file(path), "new");
  EXPECT_EQ(dir_.count(), 1u);
}

TEST_F(AtomicFileTest, ALinkStaysAndItsTargetIsReplaced) {
  fs::create_directory(dir_.file("sub"));
  const std::string target = dir_.write("sub/target", "old");
  fs::create_symlink("sub/target", dir_.file("link"));
  ASSERT_TRUE(write(dir_.file("link"), "new").ok());
  EXPECT_TRUE(fs::is_symlink(dir_.file("link")));
  EXPECT_EQ(test::load_file(target), "new");
}

TEST_F(AtomicFileTest, SpecialFilesAreRefusedAndStay) {
  ASSERT_EQ(mkfifo(dir_.file("pipe").c_str(), 0600), 0);
  EXPECT_EQ(write(dir_.file("pipe"), "x").code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(fs::is_fifo(dir_.file("pipe")));
  EXPECT_EQ(write(dir_.path(), "x").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(dir_.count(), 1u);
}

TEST_F(AtomicFileTest, PermissionsAreThoseOfTheFileThatIsReplaced) {
  const mode_t mask = umask(022);
  ASSERT_TRUE(write(dir_.file("new"), "x").ok());
  EXPECT_EQ(mode_of(dir_.file("new")), 0644u);
  for (const mode_t mode : {0600u, 0664u, 0755u}) {
    const std::string path = dir_.write("old", "x");
    ASSERT_EQ(chmod(path.c_str(), mode), 0);
    ASSERT_TRUE(write(path, "y").ok());
    EXPECT_EQ(mode_of(path), mode);
  }
  umask(mask);
}

TEST_F(AtomicFileTest, NamesMayBeAsLongAsTheFileSystemTakes) {
  for (const size_t length : {220u, 236u, 250u, 255u}) {
    const std::string path = dir_.file(std::string(length, 'n'));
    ASSERT_TRUE(write(path, "x").ok()) << length;
    EXPECT_TRUE(fs::exists(path));
  }
  std::string umlauts;
  for (int i = 0; i < 127; ++i) umlauts += "\xc3\xa4";
  EXPECT_TRUE(write(dir_.file(umlauts), "x").ok());
  EXPECT_FALSE(write(dir_.file(std::string(256, 'n')), "x").ok());
  EXPECT_EQ(dir_.count(), 5u);
}

TEST_F(AtomicFileTest, ASignalHandlerRemovesWhatIsOpen) {
  const std::string kept = dir_.write("kept", "old");
  {
    Result<AtomicFile> first = AtomicFile::create(dir_.file("a"));
    ASSERT_TRUE(first.ok());
    const AtomicFile moved = std::move(first).value();
    const Result<AtomicFile> second = AtomicFile::create(kept);
    ASSERT_TRUE(second.ok());
    EXPECT_EQ(dir_.count(), 3u);
    remove_temporaries();
    EXPECT_EQ(dir_.count(), 1u);
  }
  // More at once than the table holds, and again: it does not fill up.
  for (int round = 0; round < 3; ++round) {
    std::vector<AtomicFile> files;
    files.reserve(20);
    for (int i = 0; i < 20; ++i) files.push_back(AtomicFile::create(dir_.file(std::to_string(i))).value());
    remove_temporaries();
    EXPECT_EQ(dir_.count(), 5u);
  }
  ASSERT_TRUE(write(dir_.file("done"), "x").ok());
  remove_temporaries();
  EXPECT_EQ(test::load_file(dir_.file("done")), "x");
  EXPECT_EQ(test::load_file(kept), "old");
}

TEST_F(AtomicFileTest, SignalHandlersRemoveFoldersWithTheirFiles) {
  const std::string path = dir_.file("folder");
  const uint8_t byte = 1;
  {
    const Result<AtomicFolder> folder = AtomicFolder::create(path);
    ASSERT_TRUE(folder.ok());
    // More names than one read of a directory gives.
    const std::string long_name(200, 'n');
    for (int i = 0; i < 40; ++i) {
      ASSERT_TRUE(folder.value().write(long_name + std::to_string(i), {&byte, 1}).ok());
    }
    const Result<AtomicFile> open = AtomicFile::create(folder.value().file("open"));
    ASSERT_TRUE(open.ok());
    EXPECT_EQ(dir_.count(), 1u);
    remove_temporaries();
    EXPECT_EQ(dir_.count(), 0u);
  }
  for (int i = 0; i < 20; ++i) {  // again and again: the table does not fill up
    Result<AtomicFolder> folder = AtomicFolder::create(path + std::to_string(i));
    ASSERT_TRUE(folder.ok());
    ASSERT_TRUE(folder.value().write("done", {&byte, 1}).ok());
    ASSERT_TRUE(folder.value().commit().ok());
  }
  remove_temporaries();
  EXPECT_EQ(dir_.count(), 20u);
  EXPECT_TRUE(fs::exists(path + "19/done"));
}

TEST_F(AtomicFileTest, FoldersThatCannotBeMadeAreRefused) {
  dir_.write("file", "x");
  fs::create_directory(dir_.file("empty"));
  for (const char* name : {"a/b/", "a/../b", "file/", "file", "file/b", "a/."}) {
    const Status status = AtomicFolder::check(dir_.file(name));
    EXPECT_EQ(status.code(), name == std::string("a/.") ? StatusCode::kOk : StatusCode::kInvalidArgument)
        << name << ": " << status.message();
  }
  for (const char* name : {"new", "new//", "new/./", "empty", "empty/", "empty/../new"}) {
    const Status status = AtomicFolder::check(dir_.file(name));
    EXPECT_TRUE(status.ok()) << name << ": " << status.message();
  }
  EXPECT_EQ(dir_.count(), 2u);
}

}  // namespace
}  // namespace nwc
