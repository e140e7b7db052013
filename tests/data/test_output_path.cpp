#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "runtime/format/constants.h"
#include "tests/data/temp_dir.h"
#include "trainer/data/output_path.h"

namespace nwc {
namespace {

namespace fs = std::filesystem;

class OutputPathTest : public ::testing::Test {
 protected:
  /// The error of writing to the name, "" where it can be written.
  static std::string error_of(const std::string& path) { return resolve_output(path).status().message(); }
  static Status check(const std::string& output, std::vector<std::string> inputs) {
    const Output outputs[] = {{output}};
    return check_outputs(outputs, inputs);
  }
  test::TempDir dir_;
};

TEST_F(OutputPathTest, PlainNamesAreTakenAsTheyAre) {
  EXPECT_EQ(*resolve_output(dir_.file("new")), dir_.file("new"));
  EXPECT_EQ(*resolve_output(dir_.write("old", "x")), dir_.file("old"));
  EXPECT_EQ(*resolve_output("no-such-file-here"), "no-such-file-here");
  EXPECT_EQ(dir_.count(), 1u) << "a check makes nothing";
}

TEST_F(OutputPathTest, LinksAreFollowedToFilesThatNeedNotExist) {
  fs::create_directory(dir_.file("sub"));
  fs::create_symlink("sub/target", dir_.file("link"));
  fs::create_symlink(dir_.file("link"), dir_.file("link-to-link"));
  EXPECT_EQ(*resolve_output(dir_.file("link")), dir_.file("sub/target"));
  EXPECT_EQ(*resolve_output(dir_.file("link-to-link")), dir_.file("sub/target"));
  dir_.write("sub/target", "x");
  EXPECT_EQ(*resolve_output(dir_.file("link-to-link")), dir_.file("sub/target"));
  fs::create_symlink("circle", dir_.file("circle"));
  EXPECT_EQ(resolve_output(dir_.file("circle")).status().code(), StatusCode::kIo);
  fs::create_symlink("nowhere/target", dir_.file("lost"));
  EXPECT_NE(error_of(dir_.file("lost")).find("nowhere"), std::string::npos);
}

TEST_F(OutputPathTest, WhatCannotBeReplacedIsRefusedByNameAndKind) {
  ASSERT_EQ(mkfifo(dir_.file("pipe").c_str(), 0600), 0);
  fs::create_symlink("pipe", dir_.file("link"));
  const int fd = socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, dir_.file("socket").c_str(), sizeof address.sun_path - 1);
  ASSERT_EQ(bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  close(fd);
  const std::pair<std::string, const char*> cases[] = {{dir_.file("pipe"), "FIFO"},     {dir_.file("link"), "FIFO"},
                                                       {dir_.file("socket"), "socket"}, {dir_.path(), "folder"},
                                                       {dir_.file("new/"), "folder"},   {"/dev/null", "device"},
                                                       {dir_.file("no/x"), "no/"},      {"", "empty"}};
  for (const auto& [path, word] : cases) {
    const Status status = resolve_output(path).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << path;
    EXPECT_NE(status.message().find(path), std::string::npos) << status.message();
    EXPECT_NE(status.message().find(word), std::string::npos) << status.message();
  }
  EXPECT_NE(error_of(dir_.file(std::string(300, 'n'))).find("long"), std::string::npos);
  EXPECT_EQ(error_of(dir_.file(std::string(250, 'n'))), "");
  EXPECT_NE(error_of(dir_.write("file", "x") + "/x"), "");
}

TEST_F(OutputPathTest, WhatMayNotBeWrittenIsRefused) {
  if (geteuid() == 0) GTEST_SKIP() << "root may write everything";
  fs::create_directory(dir_.file("sealed"));
  fs::permissions(dir_.file("sealed"), fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_EQ(resolve_output(dir_.file("sealed/x")).status().code(), StatusCode::kIo);
  fs::permissions(dir_.write("kept", "x"), fs::perms::owner_read);
  EXPECT_EQ(resolve_output(dir_.file("kept")).status().code(), StatusCode::kIo);
}

TEST_F(OutputPathTest, AnInputIsNoOutputUnderAnyName) {
  const std::string file = dir_.write("w.bin", "weights");
  fs::create_symlink("w.bin", dir_.file("link"));
  fs::create_hard_link(file, dir_.file("hard"));
  for (const std::string& output : {file, dir_.path() + "/../" + fs::path(dir_.path()).filename().string() + "/w.bin",
                                    dir_.file("link"), dir_.file("hard")}) {
    const Status status = check(output, {"", dir_.file("missing"), file});
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << output;
    EXPECT_NE(status.message().find("input"), std::string::npos) << status.message();
  }
  EXPECT_TRUE(check(dir_.file("new"), {file}).ok());
  EXPECT_TRUE(check(dir_.write("other", "weights"), {file}).ok());
}

TEST_F(OutputPathTest, FilesOfAnInputFolderAreInputs) {
  fs::create_directories(dir_.file("m/shards"));
  fs::create_directory(dir_.file("blobs"));
  const std::string blob = dir_.write("blobs/blob", "weights");
  fs::create_symlink("../blobs/blob", dir_.file("m/model.safetensors"));
  const std::string folder = dir_.file("m");
  for (const std::string& output :
       {dir_.write("m/config.json", "{}"), dir_.write("m/shards/1", "x"), dir_.file("m/model.safetensors"), blob}) {
    const Status status = check(output, {folder});
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << output;
    EXPECT_NE(status.message().find(folder), std::string::npos) << status.message();
  }
  EXPECT_TRUE(check(dir_.file("m/new.nwc"), {folder}).ok());
  // The results of an earlier run.
  const std::string magic(reinterpret_cast<const char*>(kMagic), sizeof kMagic);
  EXPECT_TRUE(check(dir_.write("m/old.nwc", magic + "and the rest"), {folder}).ok());
  EXPECT_TRUE(check(dir_.write("m/log.jsonl", "{\"step\":1}\n"), {folder}).ok());
}

TEST_F(OutputPathTest, PartsOfASplitModelAreInputsTogether) {
  const std::string first = dir_.write("m-00001-of-00003.gguf", "GGUF"),
                    third = dir_.write("m-00003-of-00003.gguf", "G");
  for (const auto& [output, input] : {std::pair(first, third), std::pair(third, first)}) {
    const Status status = check(output, {input});
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_NE(status.message().find("input"), std::string::npos) << status.message();
  }
  EXPECT_TRUE(check(dir_.write("m-00001-of-00002.gguf", "G"), {first}).ok());
  EXPECT_TRUE(check(dir_.file("m-00002-of-00003.gguf"), {first}).ok());
}

TEST_F(OutputPathTest, FoldersThatTakeNoFilesAreFoundOut) {
  EXPECT_TRUE(check("/proc/self/x", {}).code() == StatusCode::kIo);
  const Output log[] = {{"/proc/self/x", true}};
  EXPECT_EQ(check_outputs(log, {}).code(), StatusCode::kIo);
  EXPECT_TRUE(check(dir_.file("x"), {}).ok());
  EXPECT_EQ(dir_.count(), 0u) << "nothing stays";
}

TEST_F(OutputPathTest, TwoOutputsAreTwoFiles) {
  fs::create_symlink("a", dir_.file("link"));
  const Output same[] = {{dir_.file("a")}, {}, {dir_.file("link")}};
  EXPECT_EQ(check_outputs(same, {}).code(), StatusCode::kInvalidArgument);
  const Output two[] = {{dir_.file("a")}, {}, {dir_.file("b"), true}};
  EXPECT_TRUE(check_outputs(two, {}).ok());
}

TEST_F(OutputPathTest, StreamsMayBePipes) {
  ASSERT_EQ(mkfifo(dir_.file("pipe").c_str(), 0600), 0);
  const auto stream = [](const std::string& path) {
    const Output outputs[] = {{path, true}};
    return check_outputs(outputs, {});
  };
  EXPECT_TRUE(stream(dir_.file("pipe")).ok());
  EXPECT_TRUE(stream("/dev/null").ok());
  EXPECT_TRUE(stream(dir_.file("new")).ok());
  EXPECT_FALSE(stream(dir_.path()).ok());
  EXPECT_FALSE(stream(dir_.file("no/x")).ok());
}

}  // namespace
}  // namespace nwc
