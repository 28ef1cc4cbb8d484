"""OVF descriptors."""

from __future__ import annotations

ENVELOPE = """<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
  xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
    <File ovf:href="second.vmdk" ovf:id="file2" ovf:size="10"/>
    <File ovf:href="{href}" ovf:id="file1" ovf:size="10"/>
  </References>
  <DiskSection>
    <Disk ovf:capacity="8" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="vmdisk1" ovf:fileRef="file1"/>
    <Disk ovf:capacity="1048576" ovf:capacityAllocationUnits="byte" ovf:diskId="vmdisk2" ovf:fileRef="file2"/>
    <Disk ovf:capacity="1" ovf:capacityAllocationUnits="GigaBytes" ovf:diskId="vmdisk3"/>
  </DiskSection>
  <VirtualSystem ovf:id="web">
    <Name>web 1</Name>
    <OperatingSystemSection ovf:id="94" vmw:osType="ubuntu64Guest"><Description>Ubuntu</Description>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Item><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>4</rasd:VirtualQuantity></Item>
      <Item><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>2048</rasd:VirtualQuantity>
        <rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits></Item>
      <Item><rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceType>6</rasd:ResourceType>
        <rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType><rasd:Address>1</rasd:Address></Item>
      <Item><rasd:ResourceType>17</rasd:ResourceType><rasd:HostResource>ovf:/disk/vmdisk2</rasd:HostResource>
        <rasd:Parent>3</rasd:Parent><rasd:AddressOnParent>2</rasd:AddressOnParent></Item>
      <Item><rasd:ResourceType>17</rasd:ResourceType><rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource></Item>
      <Item><rasd:ResourceType>17</rasd:ResourceType><rasd:HostResource>/disk/vmdisk3</rasd:HostResource></Item>
      <Item><rasd:ResourceType>10</rasd:ResourceType><rasd:Connection>VM Network</rasd:Connection>
        <rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType><rasd:Address>00:50:56:AA:bb:01</rasd:Address></Item>
      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
      <vmw:Config ovf:required="false" vmw:key="bootOptions.efiSecureBootEnabled" vmw:value="true"/>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"""


GOOD = ENVELOPE.replace("{href}", "first.vmdk")

DESCRIPTOR = """<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
  <References>
    <File ovf:href="first.vmdk" ovf:id="f1" ovf:size="{first}"/>
    <File ovf:href="second.vmdk" ovf:id="f2" ovf:size="{second}"/>
  </References>
  <DiskSection>
    <Disk ovf:capacity="8388608" ovf:diskId="d1" ovf:fileRef="f1"/>
    <Disk ovf:capacity="8388608" ovf:diskId="d2" ovf:fileRef="f2"/>
  </DiskSection>
  <VirtualSystem ovf:id="web"><Name>web 1</Name><VirtualHardwareSection>
    <Item><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
    <Item><rasd:ResourceType>4</rasd:ResourceType><rasd:VirtualQuantity>512</rasd:VirtualQuantity></Item>
    <Item><rasd:ResourceType>17</rasd:ResourceType><rasd:HostResource>ovf:/disk/d1</rasd:HostResource></Item>
    <Item><rasd:ResourceType>17</rasd:ResourceType><rasd:HostResource>ovf:/disk/d2</rasd:HostResource></Item>
    <Item><rasd:ResourceType>10</rasd:ResourceType><rasd:Connection>VM Network</rasd:Connection>
      <rasd:Address>00:50:56:aa:bb:01</rasd:Address></Item>
  </VirtualHardwareSection></VirtualSystem>
</Envelope>
"""
