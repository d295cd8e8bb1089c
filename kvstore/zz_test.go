package kvstore_test
import ("testing";"os";"strings";"fmt";"sort";"math";"github.com/anishathalye/porcupine";"time")
func TestZZ(t *testing.T){
 b,_:=os.ReadFile("/tmp/hist.txt")
 by:=map[string][]porcupine.Operation{}
 for _,l:=range strings.Split(strings.TrimSpace(string(b)),"\n"){
  i:=strings.Index(l,"} ")
  body:=l[1:i]; rest:=strings.Fields(l[i+2:])
  get:=func(k string)string{ j:=strings.Index(body,k+":"); s:=body[j+len(k)+1:]; if e:=strings.Index(s," ");e>=0{s=s[:e]}; return s}
  op:=historyOp{key:get("key"),condition:get("condition")=="true",expected:get("expected"),value:get("value")}
  out:=strings.Join(rest[:len(rest)-2]," ")
  var c,r int64; fmt.Sscan(rest[len(rest)-2],&c); fmt.Sscan(rest[len(rest)-1],&r)
  if out=="conflict" {continue}
  by[op.key]=append(by[op.key],porcupine.Operation{Input:op,Output:historyOutcome(out),Call:c,Return:r})
 }
 for key,ops:=range by {
  res:=porcupine.CheckOperationsTimeout(historyModel,ops,20*time.Second)
  t.Log(key,len(ops),res)
  if res!=porcupine.Illegal {continue}
  sort.Slice(ops,func(i,j int)bool{return ops[i].Return<ops[j].Return})
  pre:=func(n int)[]porcupine.Operation{ T:=ops[n-1].Return; var p []porcupine.Operation
   for _,o:=range ops { if o.Call>T {continue}; if o.Return>T {o.Return=math.MaxInt64;o.Output=historyUnknown}; p=append(p,o)}; return p}
  lo,hi:=1,len(ops)
  for lo<hi { m:=(lo+hi)/2; if porcupine.CheckOperationsTimeout(historyModel,pre(m),20*time.Second)==porcupine.Illegal {hi=m} else {lo=m+1}}
  t.Log("shortest",lo)
  T:=ops[lo-1].Return
  for _,o:=range ops { if o.Return>T-150e6 && o.Call<=T+1e6 || o.Output==historyUnknown&&o.Call<T { t.Logf("%+v %v %d %d",o.Input,o.Output,o.Call,o.Return)}}
 }
}
