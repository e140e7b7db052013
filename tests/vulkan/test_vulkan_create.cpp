// Creating the Vulkan decoder: no loader, no such device, quarantined kernels; each leaves the caller with kNoDevice
// and a reason, so that it can fall back to the CPU.
#include <gtest/gtest.h>

#include "tests/vulkan/vulkan_fixture.h"

namespace nwc {
namespace {

using testing::LogLines;

class VulkanCreate : public ::testing::Test {
 protected:
  void SetUp() override {
    const CodecRecord codec = testing::random_codec({2, 4});
    file_ = testing::open_bytes(testing::model_file(codec, {testing::coded_tensor(codec, {})}));
    ASSERT_NE(file_, nullptr);
  }
  void TearDown() override {
    unsetenv("NWC_VULKAN_LIBRARY");
    unsetenv("NWC_VULKAN_DEVICE");
    if (disabled_before_.empty())
      unsetenv("NWC_VULKAN_DISABLE");
    else
      setenv("NWC_VULKAN_DISABLE", disabled_before_.c_str(), 1);
    for (const std::string& line : log_.errors) ADD_FAILURE() << line;
  }
  Result<std::unique_ptr<Decoder>> create(VulkanOptions options = {}) {
    options.validation = true;
    return create_vulkan_decoder(*file_, *runner_, options, log_.logger());
  }
  /// The values, compared with the CPU's.
  void expect_decodes(Decoder& decoder) {
    const auto cpu = create_cpu_decoder(*file_, *runner_, CpuLevel::kScalar);
    std::vector<int16_t> expected(64 * 64), got(64 * 64);
    ASSERT_TRUE((*cpu)->decode_values(0, expected).ok());
    ASSERT_TRUE(decoder.decode_values(0, got).ok());
    EXPECT_EQ(got, expected);
  }

  const std::string disabled_before_ =
      std::getenv("NWC_VULKAN_DISABLE") == nullptr ? "" : std::getenv("NWC_VULKAN_DISABLE");
  std::unique_ptr<Runner> runner_ = make_thread_pool(1);
  LogLines log_;
  std::unique_ptr<NwcFile> file_;
};

TEST_F(VulkanCreate, NoLoader) {
  setenv("NWC_VULKAN_LIBRARY", "/nonexistent/libvulkan.so", 1);
  const auto decoder = create();
  ASSERT_FALSE(decoder.ok());
  EXPECT_EQ(decoder.status().code(), StatusCode::kNoDevice);
  EXPECT_NE(decoder.status().message().find("/nonexistent"), std::string::npos) << decoder.status().message();
  EXPECT_NE(describe_vulkan_devices().find("no Vulkan loader"), std::string::npos);
}

TEST_F(VulkanCreate, NotALoader) {
  setenv("NWC_VULKAN_LIBRARY", "libz.so.1", 1);
  const auto decoder = create();
  ASSERT_FALSE(decoder.ok());
  EXPECT_EQ(decoder.status().code(), StatusCode::kNoDevice);
}

TEST_F(VulkanCreate, NamesAndIndexesChooseTheDevice) {
  const auto first = create();
  NWC_NEED_DEVICE(first.status());
  ASSERT_EQ((*first)->name().rfind("vulkan ", 0), 0u);
  EXPECT_NE((*first)->on_device(), nullptr);
  const std::string name = (*first)->name().substr(7);
  EXPECT_NE(describe_vulkan_devices().find(name), std::string::npos);

  VulkanOptions options;
  options.device_name = name.substr(0, 4);
  EXPECT_TRUE(create(options).ok());
  options.device_name = "no such device";
  EXPECT_EQ(create(options).status().code(), StatusCode::kNoDevice);
  EXPECT_NE(create(options).status().message().find(name), std::string::npos) << "every device's reason is given";
  options.device_name.clear();
  options.device_index = 1000;
  EXPECT_EQ(create(options).status().code(), StatusCode::kNoDevice);

  setenv("NWC_VULKAN_DEVICE", "no such device", 1);
  EXPECT_EQ(create().status().code(), StatusCode::kNoDevice);
  setenv("NWC_VULKAN_DEVICE", "9999", 1);
  EXPECT_EQ(create().status().code(), StatusCode::kNoDevice);
  setenv("NWC_VULKAN_DEVICE", name.c_str(), 1);
  EXPECT_TRUE(create().ok());
}

TEST(DeviceFeatures, NamesAndBits) {
  EXPECT_EQ(*parse_features(""), 0u);
  EXPECT_EQ(feature_names(0), "none");
  const FeatureMask all = *parse_features("all");
  EXPECT_EQ(*parse_features(feature_names(all)), all);
  EXPECT_EQ(*parse_features("storage16,ballot"),
            static_cast<FeatureMask>(DeviceFeature::kBallot) | static_cast<FeatureMask>(DeviceFeature::kStorage16));
  EXPECT_EQ(feature_names(*parse_features("storage16,ballot")), "ballot,storage16");
  for (const char* wrong : {"ballots", ",", "ballot,,storage16", "ballot storage16", " all"}) {
    const auto parsed = parse_features(wrong);
    EXPECT_EQ(parsed.status().code(), StatusCode::kInvalidArgument) << wrong;
    EXPECT_NE(parsed.status().message().find("storage16"), std::string::npos) << "the names there are are listed";
  }
}

TEST_F(VulkanCreate, EveryFeatureCanBeSwitchedOff) {
  unsetenv("NWC_VULKAN_DISABLE");
  auto decoder = create();
  NWC_NEED_DEVICE(decoder.status());
  const FeatureMask there = static_cast<const VulkanDecoder&>(**decoder).device_info().features();
  EXPECT_TRUE(log_.mentions("features: " + feature_names(there) + ", rANS"));
  for (FeatureMask bit = 1; bit <= *parse_features("all"); bit <<= 1) {
    VulkanOptions options;
    options.disabled_features = feature_names(bit);
    decoder = create(options);
    ASSERT_TRUE(decoder.ok()) << options.disabled_features << ": " << decoder.status().message();
    EXPECT_EQ(static_cast<const VulkanDecoder&>(**decoder).device_info().features(), there & ~bit);
    expect_decodes(**decoder);
  }
  setenv("NWC_VULKAN_DISABLE", "all", 1);
  decoder = create();
  ASSERT_TRUE(decoder.ok()) << decoder.status().message();
  EXPECT_EQ(static_cast<const VulkanDecoder&>(**decoder).device_info().features(), 0u);
  EXPECT_TRUE(log_.mentions("features: none"));
  expect_decodes(**decoder);

  setenv("NWC_VULKAN_DISABLE", "balot", 1);
  decoder = create();
  EXPECT_EQ(decoder.status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(decoder.status().message().rfind("NWC_VULKAN_DISABLE", 0), 0u) << decoder.status().message();
}

TEST_F(VulkanCreate, FeaturesCanBeForced) {
  unsetenv("NWC_VULKAN_DISABLE");
  const auto instance = VulkanInstance::create(false, {});
  NWC_NEED_DEVICE(instance.status());
  DeviceChoice choice;
  choice.forced = "dot_product";
  const auto forced = choose_device(**instance, choice);
  NWC_NEED_DEVICE(forced.status());
  choice.disabled = choice.forced;
  const auto both = choose_device(**instance, choice);
  ASSERT_TRUE(both.ok()) << both.status().message();
  EXPECT_FALSE(both->dot_product) << "what is switched off stays so";
  EXPECT_EQ(both->features() | static_cast<FeatureMask>(DeviceFeature::kDotProduct),
            forced->features() | static_cast<FeatureMask>(DeviceFeature::kDotProduct));
  setenv("NWC_VULKAN_FORCE", "dots", 1);
  const auto wrong = choose_device(**instance, {});
  EXPECT_EQ(wrong.status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(wrong.status().message().rfind("NWC_VULKAN_FORCE", 0), 0u) << wrong.status().message();
  setenv("NWC_VULKAN_FORCE", "dot_product", 1);
  const auto named = choose_device(**instance, {});
  unsetenv("NWC_VULKAN_FORCE");
  ASSERT_TRUE(named.ok()) << named.status().message();
  EXPECT_EQ(named->features(), forced->features());
}

TEST_F(VulkanCreate, AutoTakesNoSoftwareRenderer) {
  bool gpu = false;
  for (const VulkanDeviceInfo& device : list_vulkan_devices())
    gpu = gpu || (device.usable && device.type != VulkanDeviceType::kCpu);
  auto decoder = create_auto_decoder(*file_, *runner_, {}, log_.logger());
  ASSERT_TRUE(decoder.ok()) << decoder.status().message();
  expect_decodes(**decoder);
  EXPECT_TRUE(log_.mentions("backend auto"));
  if (gpu) return;
  EXPECT_EQ((*decoder)->on_device(), nullptr);
  if (list_vulkan_devices().empty()) return;
  EXPECT_TRUE(log_.mentions("is a software renderer"));
  EXPECT_TRUE(log_.warnings.empty());
  setenv("NWC_VULKAN_DEVICE", list_vulkan_devices()[0].name.c_str(), 1);  // not even if it is named
  decoder = create_auto_decoder(*file_, *runner_, {}, log_.logger());
  ASSERT_TRUE(decoder.ok());
  EXPECT_EQ((*decoder)->on_device(), nullptr);
}

TEST_F(VulkanCreate, AutoWarnsIfTheNamedDeviceIsNotThere) {
  for (int by_index = 0; by_index < 2; ++by_index) {
    VulkanOptions options;
    options.device_index = by_index == 1 ? 1000 : -1;
    options.device_name = by_index == 1 ? "" : "no such device";
    log_.warnings.clear();
    const auto decoder = create_auto_decoder(*file_, *runner_, options, log_.logger());
    ASSERT_TRUE(decoder.ok()) << decoder.status().message();
    expect_decodes(**decoder);
    ASSERT_EQ(log_.warnings.size(), 1u);
    EXPECT_NE(log_.warnings[0].find("the CPU decodes"), std::string::npos) << log_.warnings[0];
  }
}

TEST_F(VulkanCreate, QuarantineTakesTheNextVariant) {
  VulkanOptions options;
  options.quarantine_mask = 1;
  auto decoder = create(options);
  NWC_NEED_DEVICE(decoder.status());
  expect_decodes(**decoder);
  const auto* vulkan = static_cast<VulkanDecoder*>(decoder->get());
  if (vulkan->device_info().ballot) {
    EXPECT_TRUE(log_.mentions("quarantined Vulkan kernel (ballot"));
  }
  EXPECT_TRUE(log_.mentions("rANS kernel: shared"));

  options.quarantine_mask = 2;
  decoder = create(options);
  if (decoder.ok()) expect_decodes(**decoder);

  options.quarantine_mask = 3;
  decoder = create(options);
  ASSERT_FALSE(decoder.ok());
  EXPECT_EQ(decoder.status().code(), StatusCode::kNoDevice);
  EXPECT_TRUE(log_.mentions("quarantined Vulkan kernel (shared"));
}

TEST_F(VulkanCreate, ValidationSeesNothing) {
  VulkanOptions options;
  options.validation = true;
  const auto decoder = VulkanDecoder::create(*file_, *runner_, options, log_.logger());
  NWC_NEED_DEVICE(decoder.status());
  if (!(*decoder)->validation_enabled()) GTEST_SKIP() << "VK_LAYER_KHRONOS_validation is not installed";
  expect_decodes(**decoder);
  EXPECT_EQ((*decoder)->validation_messages(), 0u);
}

}  // namespace
}  // namespace nwc
