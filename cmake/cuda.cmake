# The kernels of src/transform/*.cu by nvcc: NAME.fatbin for every architecture that we build for, and NAME.compute_XX.ptx,
# which the tests run without a GPU; and libweighbridge_cuda.so, the plugin that has them and starts them. Includers get
# WEIGHBRIDGE_NVCC_FOUND and, where it is set, the targets cuda_kernels and weighbridge_cuda.
set(WEIGHBRIDGE_CUDA AUTO CACHE STRING "Build the CUDA kernels and the plugin: ON, OFF, or AUTO (where nvcc is found)")
set(WEIGHBRIDGE_NVCC "" CACHE FILEPATH "nvcc to use; empty: the one on PATH, in CUDA_HOME or in /usr/local/cuda")
set(WEIGHBRIDGE_CUDA_ARCHITECTURES 80 87 90 100 110 120 CACHE STRING "What the kernels are compiled for, besides PTX")
set(CUDA_TESTED 80 90) # as PTX

set(WEIGHBRIDGE_NVCC_FOUND "")
if(WEIGHBRIDGE_CUDA STREQUAL "ON" OR (WEIGHBRIDGE_CUDA STREQUAL "AUTO" AND NOT WEIGHBRIDGE_SANITIZER))
  set(WEIGHBRIDGE_NVCC_FOUND "${WEIGHBRIDGE_NVCC}")
  if(NOT WEIGHBRIDGE_NVCC_FOUND)
    find_program(nvcc nvcc NO_CACHE HINTS "$ENV{CUDA_HOME}/bin" PATHS /usr/local/cuda/bin)
    if(nvcc)
      set(WEIGHBRIDGE_NVCC_FOUND "${nvcc}")
    endif()
  endif()
  if(NOT EXISTS "${WEIGHBRIDGE_NVCC_FOUND}" AND (WEIGHBRIDGE_NVCC_FOUND OR WEIGHBRIDGE_CUDA STREQUAL "ON"))
    message(FATAL_ERROR "WEIGHBRIDGE_CUDA=${WEIGHBRIDGE_CUDA}, but there is no nvcc at '${WEIGHBRIDGE_NVCC_FOUND}': "
                        "install the CUDA toolkit 13, or give nvcc's path by -DWEIGHBRIDGE_NVCC=")
  endif()
endif()

if(WEIGHBRIDGE_NVCC_FOUND)
  execute_process(COMMAND ${WEIGHBRIDGE_NVCC_FOUND} --version OUTPUT_VARIABLE version)
  string(REGEX MATCH "release ([0-9]+)" version "${version}")
  if(NOT CMAKE_MATCH_1 GREATER_EQUAL 13) # older ones do not know all of the architectures
    if(WEIGHBRIDGE_CUDA STREQUAL "ON")
      message(FATAL_ERROR "WEIGHBRIDGE_CUDA=ON, but ${WEIGHBRIDGE_NVCC_FOUND} is not of CUDA 13 or later (${version})")
    endif()
    message(STATUS "no CUDA kernels: ${WEIGHBRIDGE_NVCC_FOUND} is not of CUDA 13 or later (${version})")
    set(WEIGHBRIDGE_NVCC_FOUND "")
  endif()
endif()

if(WEIGHBRIDGE_NVCC_FOUND)
  set(CUDA_DIR ${CMAKE_CURRENT_BINARY_DIR}/cuda)
  file(MAKE_DIRECTORY ${CUDA_DIR})
  foreach(arch ${WEIGHBRIDGE_CUDA_ARCHITECTURES})
    list(APPEND CUDA_TARGETS -gencode arch=compute_${arch},code=sm_${arch})
  endforeach()
  list(APPEND CUDA_TARGETS -gencode arch=compute_80,code=compute_80) # for those that are not on the list
  set(CUDA_FLAGS -O3 -std=c++17 -I${CMAKE_CURRENT_SOURCE_DIR}/src -Werror all-warnings)
  file(GLOB CUDA_SOURCES CONFIGURE_DEPENDS src/transform/*.cu)
  file(GLOB CUDA_HEADERS CONFIGURE_DEPENDS src/transform/*.cuh src/transform/*lane.h)
  list(APPEND CUDA_HEADERS src/transform/transform.h)
  foreach(source ${CUDA_SOURCES})
    get_filename_component(name ${source} NAME_WE)
    add_custom_command(OUTPUT ${CUDA_DIR}/${name}.fatbin DEPENDS ${source} ${CUDA_HEADERS} VERBATIM
      COMMAND ${WEIGHBRIDGE_NVCC_FOUND} ${CUDA_FLAGS} ${CUDA_TARGETS} -fatbin ${source} -o ${CUDA_DIR}/${name}.fatbin)
    list(APPEND CUDA_FILES ${CUDA_DIR}/${name}.fatbin)
    foreach(arch ${CUDA_TESTED})
      set(ptx ${CUDA_DIR}/${name}.compute_${arch}.ptx)
      add_custom_command(OUTPUT ${ptx} DEPENDS ${source} ${CUDA_HEADERS} VERBATIM
        COMMAND ${WEIGHBRIDGE_NVCC_FOUND} ${CUDA_FLAGS} -lineinfo -arch=compute_${arch} -ptx ${source} -o ${ptx})
      list(APPEND CUDA_FILES ${ptx})
    endforeach()
  endforeach()
  add_custom_target(cuda_kernels ALL DEPENDS ${CUDA_FILES})
  message(STATUS "CUDA kernels by ${WEIGHBRIDGE_NVCC_FOUND}")

  # The plugin is plain C against the runtime's headers; a toolkit from PyPI has its libraries in lib, without plain names.
  get_filename_component(toolkit ${WEIGHBRIDGE_NVCC_FOUND} REALPATH)
  get_filename_component(toolkit ${toolkit}/../.. ABSOLUTE)
  file(GLOB targets ${toolkit}/targets/*)
  find_path(CUDA_INCLUDE cuda_runtime_api.h NO_CACHE HINTS ${toolkit} ${targets} PATH_SUFFIXES include)
  find_library(CUDA_RUNTIME NAMES libcudart.so.13 libcudart.so NO_CACHE HINTS ${toolkit} ${targets} PATH_SUFFIXES lib64 lib)
  if(WEIGHBRIDGE_CUDA STREQUAL "ON" AND NOT (CUDA_INCLUDE AND CUDA_RUNTIME))
    message(FATAL_ERROR "WEIGHBRIDGE_CUDA=ON, but beside ${WEIGHBRIDGE_NVCC_FOUND} there is no cuda_runtime_api.h or no "
                        "libcudart.so.13: install the toolkit's runtime (cuda-cudart-dev-13-0)")
  endif()
endif()

if(CUDA_INCLUDE AND CUDA_RUNTIME)
  set(CUDA_HEADERS_THERE "") # of the same toolkit: those of another one would not fit
  if(EXISTS ${CUDA_INCLUDE}/nccl.h)
    list(APPEND CUDA_HEADERS_THERE WITH_NCCL_H)
  endif()
  if(EXISTS ${CUDA_INCLUDE}/cublas_v2.h)
    list(APPEND CUDA_HEADERS_THERE WITH_CUBLAS_H)
  endif()
  set(names "")
  foreach(source ${CUDA_SOURCES})
    get_filename_component(name ${source} NAME_WE)
    list(APPEND names ${name})
  endforeach()
  list(JOIN names "," names)
  add_custom_command(OUTPUT ${CUDA_DIR}/kernels.c DEPENDS ${CUDA_FILES} cmake/kernels.cmake VERBATIM
    COMMAND ${CMAKE_COMMAND} -DDIR=${CUDA_DIR} -DNAMES=${names} -DOUT=${CUDA_DIR}/kernels.c
            -P ${CMAKE_CURRENT_SOURCE_DIR}/cmake/kernels.cmake)
  add_library(weighbridge_cuda MODULE src/gpu/cuda.c src/gpu/nccl.c src/gpu/cublas.c src/gpu/abi_check.c
              src/base/arena.c src/base/err.c src/base/str.c ${CUDA_DIR}/kernels.c)
  add_dependencies(weighbridge_cuda cuda_kernels)
  target_include_directories(weighbridge_cuda PRIVATE src)
  target_include_directories(weighbridge_cuda SYSTEM PRIVATE ${CUDA_INCLUDE})
  target_link_libraries(weighbridge_cuda PRIVATE ${CUDA_RUNTIME} Threads::Threads ${CMAKE_DL_LIBS})
  target_compile_definitions(weighbridge_cuda PRIVATE ${CUDA_HEADERS_THERE})
  target_compile_options(weighbridge_cuda PRIVATE -fvisibility=hidden)
  # Installed it still finds this runtime, behind those that LD_LIBRARY_PATH names.
  target_link_options(weighbridge_cuda PRIVATE -Wl,--enable-new-dtags)
  set_target_properties(weighbridge_cuda PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
  install(TARGETS weighbridge_cuda DESTINATION ${CMAKE_INSTALL_LIBDIR})
  message(STATUS "CUDA plugin with ${CUDA_RUNTIME}")
endif()
