#include <gtest/gtest.h>

#include <memory>
#include <set>
#include <string>

#include "runtime/base/status.h"

namespace nwc {
namespace {

Status fail_with(StatusCode code) { return Status(code, "reason"); }

Status try_status(StatusCode code, bool* went_on) {
  NWC_TRY(fail_with(code));
  *went_on = true;
  return {};
}

Result<std::unique_ptr<int>> make_number(bool good) {
  if (!good) return corrupt("field x: bad");
  return std::make_unique<int>(7);
}

Result<int> add_one(bool good) {
  NWC_ASSIGN_OR_RETURN(const std::unique_ptr<int> number, make_number(good));
  return *number + 1;
}

TEST(Status, DefaultIsOk) {
  const Status status;
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(status.code(), StatusCode::kOk);
  EXPECT_EQ(status.message(), "");
}

TEST(Status, ContextGoesInFrontAndLeavesOkAlone) {
  const Status status = truncated("field size").with_context("model.nwc");
  EXPECT_EQ(status.code(), StatusCode::kTruncated);
  EXPECT_EQ(status.message(), "model.nwc: field size");
  EXPECT_TRUE(Status().with_context("model.nwc").ok());
  EXPECT_EQ(Status().with_context("model.nwc").message(), "");
}

TEST(Status, CopiesAreOfTheirOwn) {
  Status status = corrupt(str_cat("field ", 7));
  const Status copy = status;
  const Status moved = std::move(status);
  status = truncated(std::string("other"));
  EXPECT_EQ(copy.message(), "field 7");
  EXPECT_EQ(moved.message(), "field 7");
  EXPECT_EQ(status.code(), StatusCode::kTruncated);
  status = copy;
  EXPECT_EQ(status.code(), StatusCode::kCorrupt);
  status = Status();
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(status.message(), "");
}

TEST(Status, TryReturnsErrorsAndPassesOk) {
  bool went_on = false;
  EXPECT_EQ(try_status(StatusCode::kIo, &went_on).code(), StatusCode::kIo);
  EXPECT_FALSE(went_on);
  EXPECT_TRUE(try_status(StatusCode::kOk, &went_on).ok());
  EXPECT_TRUE(went_on);
}

TEST(Result, CarriesValueOrError) {
  ASSERT_TRUE(add_one(true).ok());
  EXPECT_EQ(add_one(true).value(), 8);
  EXPECT_TRUE(add_one(true).status().ok());
  const Result<int> bad = add_one(false);
  ASSERT_FALSE(bad.ok());
  EXPECT_EQ(bad.status().code(), StatusCode::kCorrupt);
  EXPECT_EQ(bad.status().message(), "field x: bad");
}

TEST(Status, NamesAreDistinctAndCoverUnknownNumbers) {
  std::set<std::string> names;
  const StatusCode codes[] = {StatusCode::kOk,          StatusCode::kUnrecognized,
                              StatusCode::kUnsupported, StatusCode::kUnsupportedVersion,
                              StatusCode::kCorrupt,     StatusCode::kTruncated,
                              StatusCode::kChecksum,    StatusCode::kInvalidArgument,
                              StatusCode::kNotFound,    StatusCode::kBufferTooSmall,
                              StatusCode::kCancelled,   StatusCode::kOutOfMemory,
                              StatusCode::kLimit,       StatusCode::kBudget,
                              StatusCode::kDevice,      StatusCode::kNoDevice,
                              StatusCode::kDeviceLost,  StatusCode::kIo,
                              StatusCode::kInternal};
  for (const StatusCode code : codes) names.insert(status_code_name(code));
  EXPECT_EQ(names.size(), std::size(codes));
  EXPECT_FALSE(names.count(status_code_name(static_cast<StatusCode>(9999))));
}

}  // namespace
}  // namespace nwc
