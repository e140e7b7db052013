/* vulkan_buffer <model.nwc>: all weights of a model into one buffer of the program's own Vulkan device, where its own
 * shaders would read them. The loader library is linked here; nwc takes its functions from the program. */
#include <nwc/nwc.h>
#include <stdio.h>
#include <stdlib.h>
#include <vulkan/vulkan.h>

static int fail(const char* what) {
  fprintf(stderr, "%s\n", what);
  return 0;
}

/* A device with one queue, as any program that computes has it. */
static int make_device(nwc_vulkan_objects* objects, VkInstance* instance, VkDevice* device) {
  static const float priority = 1;
  static VkPhysicalDevice16BitStorageFeatures storage16;
  static VkDeviceQueueCreateInfo queue;
  static VkDeviceCreateInfo create; /* nwc reads what the device was made with */
  VkApplicationInfo application = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_1};
  VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &application};
  VkPhysicalDevice physical;
  VkQueueFamilyProperties families[16];
  uint32_t count = 1, family = 0;
  if (vkCreateInstance(&info, NULL, instance) != VK_SUCCESS) return fail("no Vulkan driver");
  if (vkEnumeratePhysicalDevices(*instance, &count, &physical) < VK_SUCCESS || count == 0)
    return fail("no Vulkan device");
  count = 16;
  vkGetPhysicalDeviceQueueFamilyProperties(physical, &count, families);
  while (family < count && !(families[family].queueFlags & VK_QUEUE_COMPUTE_BIT)) ++family;
  if (family == count) return fail("the Vulkan device does not compute");

  /* nwc uses a feature only if the program has enabled it. This one spares it the packing of pairs. */
  storage16.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES;
  VkPhysicalDeviceFeatures2 features = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &storage16};
  vkGetPhysicalDeviceFeatures2(physical, &features);
  queue.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO;
  queue.queueFamilyIndex = family;
  queue.queueCount = 1;
  queue.pQueuePriorities = &priority;
  create.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO;
  create.pNext = &storage16;
  create.queueCreateInfoCount = 1;
  create.pQueueCreateInfos = &queue;
  if (vkCreateDevice(physical, &create, NULL, device) != VK_SUCCESS) return fail("vkCreateDevice failed");
  nwc_vulkan_objects_init(objects);
  objects->instance = *instance;
  objects->physical_device = physical;
  objects->device = *device;
  vkGetDeviceQueue(*device, family, 0, &objects->queue);
  objects->queue_family = family;
  objects->created_with = &create;
  objects->get_instance_proc_addr = vkGetInstanceProcAddr;
  return 1;
}

/* In memory that the host can read, so that the example can show what is in it. Weights belong in device memory. */
static int make_buffer(const nwc_vulkan_objects* o, VkDeviceSize size, VkBuffer* buffer, VkDeviceMemory* memory,
                       const float** mapped) {
  const VkMemoryPropertyFlags wanted = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
  VkBufferCreateInfo info = {.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO, .size = size};
  VkMemoryAllocateInfo allocate = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO};
  VkMemoryRequirements needs;
  VkPhysicalDeviceMemoryProperties types;
  uint32_t type = 0;
  void* pointer = NULL;
  info.usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT;
  if (vkCreateBuffer(o->device, &info, NULL, buffer) != VK_SUCCESS) return fail("vkCreateBuffer failed");
  vkGetBufferMemoryRequirements(o->device, *buffer, &needs);
  vkGetPhysicalDeviceMemoryProperties(o->physical_device, &types);
  while (type < types.memoryTypeCount &&
         (!(needs.memoryTypeBits >> type & 1) || (types.memoryTypes[type].propertyFlags & wanted) != wanted))
    ++type;
  allocate.allocationSize = needs.size;
  allocate.memoryTypeIndex = type;
  if (type == types.memoryTypeCount || vkAllocateMemory(o->device, &allocate, NULL, memory) != VK_SUCCESS ||
      vkBindBufferMemory(o->device, *buffer, *memory, 0) != VK_SUCCESS ||
      vkMapMemory(o->device, *memory, 0, VK_WHOLE_SIZE, 0, &pointer) != VK_SUCCESS)
    return fail("no memory for the buffer");
  *mapped = pointer;
  return 1;
}

int main(int argc, char** argv) {
  char why[512];
  const nwc_error_detail error = {why, sizeof why};
  VkInstance instance = VK_NULL_HANDLE;
  VkDevice device = VK_NULL_HANDLE;
  VkBuffer buffer = VK_NULL_HANDLE;
  VkDeviceMemory memory = VK_NULL_HANDLE;
  nwc_vulkan_objects objects;
  nwc_decoder_params params;
  nwc_model* model = NULL;
  nwc_decoder* decoder = NULL;
  nwc_buffer_rows* rows = NULL;
  const float* weights = NULL;
  int result = 1;
  if (argc != 2) return fprintf(stderr, "usage: %s <model.nwc>\n", argv[0]), 2;
  if (nwc_model_open_path(argv[1], &error, &model) != NWC_STATUS_OK) return fprintf(stderr, "%s\n", why), 1;

  /* One tensor behind the other. */
  nwc_model_info info;
  nwc_model_info_init(&info);
  nwc_model_get_info(model, &info);
  rows = calloc(info.num_tensors, sizeof *rows);
  size_t count = 0;
  uint64_t bytes = 0;
  for (uint32_t t = 0; rows != NULL && t < info.num_tensors; ++t) {
    nwc_tensor_info tensor;
    nwc_tensor_info_init(&tensor);
    nwc_model_tensor(model, t, &tensor);
    if (tensor.storage != NWC_STORAGE_CODED) continue;
    rows[count].tensor = t;
    rows[count].dtype = NWC_DTYPE_F32;
    rows[count].row_end = tensor.rows;
    rows[count].offset = bytes;
    bytes += tensor.rows * tensor.cols * sizeof(float);
    ++count;
  }

  nwc_decoder_params_init(&params);
  params.backend = NWC_BACKEND_VULKAN;
  params.vulkan = &objects;
  if (count == 0)
    fprintf(stderr, "%s: no coded tensors\n", argv[1]);
  else if (make_device(&objects, &instance, &device) && make_buffer(&objects, bytes, &buffer, &memory, &weights)) {
    for (size_t i = 0; i < count; ++i) {
      rows[i].buffer = (uint64_t)buffer;
      rows[i].buffer_bytes = bytes;
    }
    if (nwc_decoder_create(model, &params, &error, &decoder) != NWC_STATUS_OK)
      fprintf(stderr, "%s\n", why);
    else if (nwc_decoder_decode_to_buffers(decoder, rows, count, NULL, NULL) != NWC_STATUS_OK)
      fprintf(stderr, "%s\n", nwc_decoder_last_error(decoder));
    else {
      double squares = 0;
      for (uint64_t i = 0; i < bytes / sizeof(float); ++i) squares += (double)weights[i] * (double)weights[i];
      printf("%zu tensors, %llu bytes, mean square %.6g, decoded by %s into the program's buffer\n", count,
             (unsigned long long)bytes, squares / ((double)bytes / sizeof(float)), nwc_decoder_name(decoder));
      result = 0;
    }
  }
  nwc_decoder_destroy(decoder); /* before the device that it works on */
  nwc_model_destroy(model);
  free(rows);
  if (device != VK_NULL_HANDLE) {
    vkDestroyBuffer(device, buffer, NULL);
    vkFreeMemory(device, memory, NULL);
    vkDestroyDevice(device, NULL);
  }
  if (instance != VK_NULL_HANDLE) vkDestroyInstance(instance, NULL);
  return result;
}
