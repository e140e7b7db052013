// Compute pipelines, made when first asked for and kept.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "runtime/vulkan/device.h"
#include "runtime/vulkan/shader_registry.h"

namespace nwc {

struct PipelineKey {
  ShaderId shader{};
  std::vector<uint32_t> constants;      ///< specialization constants 0, 1, ...
  uint32_t required_subgroup_size = 0;  ///< 0: any; else the device must have size control

  bool operator<(const PipelineKey& other) const;
};

class PipelineCache {
 public:
  static Result<std::unique_ptr<PipelineCache>> create(VulkanDevice& device);
  ~PipelineCache();
  PipelineCache(const PipelineCache&) = delete;
  PipelineCache& operator=(const PipelineCache&) = delete;

  /// Thread-safe.
  Result<VkPipeline> get(const PipelineKey& key);
  VkPipelineLayout layout() const { return layout_; }
  VkDescriptorSetLayout set_layout() const { return set_layout_; }

 private:
  explicit PipelineCache(VulkanDevice& device) : device_(device) {}
  Result<VkShaderModule> shader_module(ShaderId id);

  VulkanDevice& device_;
  VkDescriptorSetLayout set_layout_ = VK_NULL_HANDLE;
  VkPipelineLayout layout_ = VK_NULL_HANDLE;
  std::mutex mutex_;
  std::map<ShaderId, VkShaderModule> modules_;
  std::map<PipelineKey, VkPipeline> pipelines_;
};

}  // namespace nwc
