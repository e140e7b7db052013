#include "runtime/vulkan/pipeline.h"

#include <tuple>

namespace nwc {

bool PipelineKey::operator<(const PipelineKey& other) const {
  return std::tie(shader, required_subgroup_size, constants) <
         std::tie(other.shader, other.required_subgroup_size, other.constants);
}

Result<std::unique_ptr<PipelineCache>> PipelineCache::create(VulkanDevice& device) {
  std::unique_ptr<PipelineCache> self(new PipelineCache(device));
  VkDescriptorSetLayoutBinding bindings[kShaderBuffers] = {};
  for (uint32_t i = 0; i < kShaderBuffers; ++i) {
    bindings[i].binding = i;
    bindings[i].descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
    bindings[i].descriptorCount = 1;
    bindings[i].stageFlags = VK_SHADER_STAGE_COMPUTE_BIT;
  }
  VkDescriptorSetLayoutCreateInfo set{};
  set.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO;
  set.bindingCount = kShaderBuffers;
  set.pBindings = bindings;
  NWC_TRY(vk_status(device.fn().vkCreateDescriptorSetLayout(device.handle(), &set, nullptr, &self->set_layout_),
                    "vkCreateDescriptorSetLayout"));
  VkPushConstantRange range{};
  range.stageFlags = VK_SHADER_STAGE_COMPUTE_BIT;
  range.size = kPushConstantBytes;
  VkPipelineLayoutCreateInfo layout{};
  layout.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO;
  layout.setLayoutCount = 1;
  layout.pSetLayouts = &self->set_layout_;
  layout.pushConstantRangeCount = 1;
  layout.pPushConstantRanges = &range;
  NWC_TRY(vk_status(device.fn().vkCreatePipelineLayout(device.handle(), &layout, nullptr, &self->layout_),
                    "vkCreatePipelineLayout"));
  return self;
}

PipelineCache::~PipelineCache() {
  if (device_.abandoned()) return;
  const DeviceFunctions& fn = device_.fn();
  for (const auto& [key, pipeline] : pipelines_) fn.vkDestroyPipeline(device_.handle(), pipeline, nullptr);
  for (const auto& [id, module] : modules_) fn.vkDestroyShaderModule(device_.handle(), module, nullptr);
  if (layout_ != VK_NULL_HANDLE) fn.vkDestroyPipelineLayout(device_.handle(), layout_, nullptr);
  if (set_layout_ != VK_NULL_HANDLE) fn.vkDestroyDescriptorSetLayout(device_.handle(), set_layout_, nullptr);
}

Result<VkShaderModule> PipelineCache::shader_module(ShaderId id) {
  const auto found = modules_.find(id);
  if (found != modules_.end()) return found->second;
  const std::span<const uint32_t> code = shader_code(id);
  VkShaderModuleCreateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO;
  info.codeSize = code.size_bytes();
  info.pCode = code.data();
  VkShaderModule module = VK_NULL_HANDLE;
  NWC_TRY(vk_status(device_.fn().vkCreateShaderModule(device_.handle(), &info, nullptr, &module), shader_name(id)));
  modules_.emplace(id, module);
  return module;
}

Result<VkPipeline> PipelineCache::get(const PipelineKey& key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = pipelines_.find(key);
  if (found != pipelines_.end()) return found->second;
  NWC_ASSIGN_OR_RETURN(const VkShaderModule module, shader_module(key.shader));

  std::vector<VkSpecializationMapEntry> entries(key.constants.size());
  for (uint32_t i = 0; i < entries.size(); ++i) {
    entries[i] = {i, i * static_cast<uint32_t>(sizeof(uint32_t)), sizeof(uint32_t)};
  }
  VkSpecializationInfo constants{};
  constants.mapEntryCount = static_cast<uint32_t>(entries.size());
  constants.pMapEntries = entries.data();
  constants.dataSize = key.constants.size() * sizeof(uint32_t);
  constants.pData = key.constants.data();

  VkPipelineShaderStageRequiredSubgroupSizeCreateInfoEXT size{};
  size.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO_EXT;
  size.requiredSubgroupSize = key.required_subgroup_size;

  VkComputePipelineCreateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO;
  info.layout = layout_;
  info.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
  info.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
  info.stage.module = module;
  info.stage.pName = "main";
  info.stage.pSpecializationInfo = &constants;
  if (key.required_subgroup_size != 0) {
    info.stage.pNext = &size;
    if (device_.info().full_subgroups) {
      info.stage.flags |= VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT_EXT;
    }
  }
  VkPipeline pipeline = VK_NULL_HANDLE;
  NWC_TRY(
      vk_status(device_.fn().vkCreateComputePipelines(device_.handle(), VK_NULL_HANDLE, 1, &info, nullptr, &pipeline),
                shader_name(key.shader)));
  pipelines_.emplace(key, pipeline);
  return pipeline;
}

}  // namespace nwc
